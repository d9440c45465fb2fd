"""Models that cannot be pruned, damaged ones and a damaged cache of them; and that all bytes identify a model."""

from __future__ import annotations

import ast
import contextlib
import errno
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import pruning
from pruning.config.app import build_option
from pruning.core import wheels
from pruning.core.errors import InputError, PruningError, UnskippableError
from pruning.core.mask import Mask
from pruning.export import pipeline, request
from pruning.models import handle as model_module
from pruning.models import kept_models, model_files
from pruning.models.architecture import check_stored
from pruning.models.blocks import head
from pruning.models.handle import Model, _check_extra, directory_name
from pruning.models.kept_models import _convert, fetch, quiet
from pruning.models.model_files import ADAPTER_CONFIG, file_digests, find_files
from tests.conftest import N_BLOCKS, Command
from tests.helpers import architectures, gguf_models
from tests.helpers.architectures import LLAMA, TOKENS, WIDTH, build, random_model, saved_llama
from tests.helpers.damage import content, edit_config, edit_json, edit_weights, tree
from tests.helpers.exports import EQUAL
from tests.helpers.hub_cache import cached

CAUSAL = LLAMA | TOKENS


def shard(folder: Path) -> Path:
    """Divide the weights into several files; returns their index."""
    model = transformers.LlamaForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="40KB")
    return folder / "model.safetensors.index.json"


def without_a_shard(folder: Path) -> None:
    shard(folder)
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def with_a_wrong_index(folder: Path) -> None:
    def change(index: Any) -> None:
        index["weight_map"]["model.norm.weight"] = index["weight_map"]["model.embed_tokens.weight"]

    edit_json(shard(folder), change)


def outside(folder: Path) -> None:
    """Let the index name a file beside the folder."""
    (folder / "model.safetensors").replace(folder.parent / "outside.safetensors")
    index = {"weight_map": {"a": "../outside.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def unlink(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere")


def in_config(**values: Any) -> Callable[[Path], Any]:
    return lambda folder: edit_config(folder, **values)


def in_file(damage: Callable[[Path], Any]) -> Callable[[Path], Any]:
    return lambda folder: damage(folder / "model.safetensors")


# What is wrong with a directory, and what the refusal names.
BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing shard": (without_a_shard, r"model-00002-of-"),
    "wrong index": (with_a_wrong_index, r"model\.norm\.weight"),
    "index of a file outside": (outside, r"\.\./outside\.safetensors"),
    "truncated": (in_file(lambda file: file.write_bytes(file.read_bytes()[:-1000])), "tensors is truncated"),
    "empty file": (in_file(content(b"")), "tensors is truncated"),
    "dangling link": (in_file(unlink), r"model\.path=\S+ .*\bweights"),
    "config.json": (lambda f: (f / "config.json").write_text("{"), r"config\.json"),
    "impossible": (in_config(num_attention_heads=5), r"\(32\) .*\(5\)"),
    "a foreign kernel": (in_config(attn_implementation="evil/kernel"), r"evil/kernel .*attn_implementation"),
}


@pytest.mark.parametrize(("damage", "named"), BROKEN.values(), ids=BROKEN)
def test_a_damaged_or_foreign_model_is_refused_before_it_is_loaded(
    damage: Callable[[Path], Any], named: str, model_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "model")
    Model("good", "local", str(folder)).check()
    damage(folder)
    with pytest.raises(InputError, match=named):
        Model("bad", "local", str(folder)).check()


# For the last two, transformers makes an empty tokenizer.
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3_text"])
def test_a_directory_without_a_tokenizer_is_refused(kind: str, model_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "bare")
    for file in folder.glob("*token*"):
        file.unlink()
    edit_config(folder, model_type=kind)
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        assert Model("bare", "local", str(folder)).tokenizer


CONFIGS: dict[str, tuple[str, dict[str, Any], str]] = {
    "t5": ("T5Config", {}, "encoder-decoder"),
    "vision-language": ("Qwen2_5_VLConfig", {}, "causal"),
    "images": ("ViTConfig", {}, "causal"),
    "masked": ("BertConfig", {"architectures": ["BertForMaskedLM"]}, "masked"),
    "gemma3n": ("Gemma3nTextConfig", {"num_kv_shared_layers": 2}, " 2 blocks"),
    "quantised": ("LlamaConfig", {"quantization_config": {"quant_method": "unheard-of"}}, r"\(unheard-of\)"),
}


@pytest.mark.parametrize(("kind", "settings", "named"), CONFIGS.values(), ids=CONFIGS)
def test_what_a_configuration_shows_is_refused_from_it(
    kind: str, settings: dict[str, Any], named: str
) -> None:
    with pytest.raises(UnskippableError, match=named):
        check_stored(getattr(transformers, kind)(**settings))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_bidirectional_model_is_refused(dtype: torch.dtype, tokenizer: Any, tmp_path: Path) -> None:
    model = random_model("BertConfig", **WIDTH | TOKENS, intermediate_size=48).to(dtype)
    with pytest.raises(UnskippableError, match="causal"):
        pruning.wrap_model(model, tokenizer)
    model.save_pretrained(tmp_path)
    with pytest.raises(PruningError, match="causal"):
        Model("bert", "local", str(tmp_path)).load_anew()


# Classes without sdpa, and one without a pad token.
SMALL = {"hidden_size": 32, "vocab_size": 97}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bloom": architectures.OTHERS["bloom"],
    "mamba": ("MambaConfig", SMALL | {"num_hidden_layers": N_BLOCKS, "state_size": 4}),
    "gpt_oss": ("GptOssConfig", CAUSAL | {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "rwkv": ("RwkvConfig", SMALL | {"num_hidden_layers": N_BLOCKS, "context_length": 64}),
}


@pytest.mark.parametrize(("kind", "settings"), OTHERS.values(), ids=OTHERS)
def test_a_class_without_sdpa_uses_eager(kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    random_model(kind, **settings).save_pretrained(tmp_path)
    chosen = Model("other", "local", str(tmp_path), dtype="float32")
    chosen.check()
    loaded = chosen.load_anew()
    assert loaded.info.attention == "eager"
    assert head(loaded.module, torch.randn(2, 32)).shape == (2, 97)


# Weights that do not belong to the configuration are found when they are loaded.
FOREIGN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "fewer blocks": (in_config(num_hidden_layers=4), "4 blocks.* block 4"),
    "more blocks": (in_config(num_hidden_layers=8), r"layers\.6\."),
    "other shape": (in_config(intermediate_size=80), r"config\.json"),
}


@pytest.mark.parametrize(("damage", "named"), FOREIGN.values(), ids=FOREIGN)
def test_weights_of_another_model_are_refused_when_they_are_loaded(
    damage: Callable[[Path], Any], named: str, model_folder: Path, tmp_path: Path
) -> None:
    damage(folder := shutil.copytree(model_folder, tmp_path / "model"))
    with pytest.raises(InputError, match=named):
        Model("tiny", "local", str(folder)).load_anew()


def test_a_revision_of_a_directory_is_refused(model_folder: Path) -> None:
    with pytest.raises(InputError, match=r"model\.revision=abc "):
        Model("tiny", "local", str(model_folder), revision="abc").check()


def test_blocks_for_several_tokens_are_not_left_over() -> None:
    model = build("llama")
    names = ["model.layers.5.mlp.weight", "model.layers.6.mlp.weight"]
    with pytest.raises(InputError, match=r"6 blocks.* block 6"):
        _check_extra("model", names, "model.layers", model.config)
    model.config.num_nextn_predict_layers = 1
    _check_extra("model", names, "model.layers", model.config)


@pytest.mark.parametrize(("special", "refused"), [(False, True), (True, False)])
def test_a_tokenizer_larger_than_the_vocabulary(
    special: bool, refused: bool, model_folder: Path, tmp_path: Path, tokenizer: Any
) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "model")
    larger = transformers.AutoTokenizer.from_pretrained(folder)
    larger.add_tokens([f"word{number}" for number in range(9)], special_tokens=special)
    larger.save_pretrained(folder)
    settings = Model("larger", "local", str(folder))
    if refused:
        with pytest.raises(InputError, match=r"520, .* 512 "):
            settings.check_vocabulary({})
    else:
        settings.check_vocabulary({"the calibration data": 511})
        with pytest.raises(InputError, match=r"the calibration data .* 515"):
            settings.check_vocabulary({"the calibration data": 515})


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "negated": lambda folder: edit_weights(folder, lambda w: {name: -value for name, value in w.items()}),
    "fewer": lambda folder: (folder / "tokenizer.json").unlink(),
    "no digests": lambda folder: folder.with_name(f"{folder.name}.json").unlink(),
}


@pytest.fixture
def kept(model_folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A converted model in the cache."""
    monkeypatch.setattr(kept_models, "extract", lambda *_: cache / "file.gguf")
    monkeypatch.setattr(kept_models, "_convert", lambda _, target, __: shutil.copytree(model_folder, target))
    return fetch("smollm2")


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_converted_model_is_made_again(
    damage: Callable[[Path], Any], model_folder: Path, kept: Path
) -> None:
    whole = tree(kept)
    damage(kept)
    assert fetch("smollm2") == kept
    assert tree(kept) == whole == tree(model_folder)


@pytest.mark.parametrize(
    ("folder", "words"),
    [("/proc/cache", ["model=smollm2"]), ("/dev/null/cache", ["calibration=wikipedia_sample"])],
)
def test_an_unwritable_cache_is_named_before_the_search(
    folder: str, words: list[str], launch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPTH_PRUNING_CACHE", folder)
    words += ["model.path=smollm2"] if "model=smollm2" in words else []
    ended = launch("k=1", *words)
    assert (ended.status, ended.all()) == (2, [])
    assert f" {folder} " in ended.err
    assert "DEPTH_PRUNING_CACHE" in ended.err


def test_a_cache_that_holds_everything_may_be_read_only(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(wheels, "FileLock", refused)
    assert fetch("smollm2") == kept
    with pytest.raises(InputError, match=r"Permission denied.*DEPTH_PRUNING_CACHE"):
        fetch("gemma3_270m")


def test_a_disk_that_fills_up_in_a_conversion_leaves_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise RuntimeError("I/O error: No space left on device (os error 28)")  # as safetensors says it

    monkeypatch.setattr(kept_models, "extract", lambda *_: cache)
    monkeypatch.setattr(kept_models, "_convert", full)
    with pytest.raises(InputError, match="No space left on device"):
        fetch("smollm2")
    assert [path.name for path in (cache / "models").iterdir() if path.suffix != ".lock"] == []


def test_an_unreachable_hub_is_tried_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from huggingface_hub import constants

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError("no route")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_session", lambda: type("Session", (), {"head": fail})())
    wheels.use_hub.cache_clear()
    wheels.use_hub()
    wheels.use_hub()
    assert caplog.text.count("(no route)") == 1
    assert constants.HF_HUB_OFFLINE
    wheels.use_hub.cache_clear()


LOADERS = {"from_pretrained", "from_config", "pipeline", "SentenceTransformer", "HFLM", "LLM", "Engine"}
# What takes no such argument, or is called by another name: peft reads an adapter's numbers only.
WITHOUT_CODE = {"PeftModel.from_pretrained"}


def refuses_code(call: ast.Call) -> bool:
    return any((w.arg, ast.unparse(w.value)) == ("trust_remote_code", "False") for w in call.keywords)


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name.rpartition(".")[2] in LOADERS and not name.endswith(tuple(WITHOUT_CODE)):
                yield node


def test_each_call_that_loads_a_model_refuses_its_code() -> None:
    """A model's repository can hold code, and transformers asks for leave to run it unless it is refused."""
    root = Path(__file__).parents[2]
    parts = ("pruning", "analysis", "benchmarks", "docs")
    files = [path for part in parts for path in root.glob(f"{part}/**/*.py")]
    found = [(path.name, call) for path in files for call in calls(ast.parse(path.read_text("utf-8")))]
    assert len(found) > 8
    assert [(name, call.lineno) for name, call in found if not refuses_code(call)] == []
    (call,) = calls(ast.parse("AutoModel.from_pretrained(path, **options)"))
    assert not refuses_code(call), "what a caller passes on does not count"


MIB = 1 << 20


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for converted models and digests, empty at first."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("DEPTH_PRUNING_CACHE", str(folder))
    yield folder
    model_module._loaded.clear()


@pytest.fixture(scope="module")
def large_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A Llama of six blocks and 3.2 MB, so that the middle of its file is farther than 1 MiB from both ends."""
    sizes = {"hidden_size": 64, "intermediate_size": 512, "initializer_range": 0.2}
    return saved_llama(tmp_path_factory.mktemp("large"), tokenizer, **sizes)


@pytest.fixture
def large(large_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(large_folder, tmp_path / "large"))


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    for name in ("one.gguf", "two.gguf"):
        gguf_models.write(tmp_path / "files" / name, type_="Q8_0")
    return tmp_path / "files" / "one.gguf"


def local(path: Path | str, **settings: Any) -> Model:
    return Model("x", "local", str(path), dtype="float32", **settings)


def negate(folder: Path) -> None:
    """Negate a matrix in the middle of the file in place, and put the time of modification back."""
    file = folder / "model.safetensors"
    before, old = file.stat(), file.read_bytes()
    weights = load_file(file)
    weights["model.layers.3.mlp.down_proj.weight"].neg_()
    save_file(weights, content := Path(f"{file}.new"), metadata={"format": "pt"})
    with file.open("r+b") as stream:
        stream.write(content.read_bytes())
    content.unlink()
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    new = file.read_bytes()
    assert (len(new), file.stat().st_ino) == (len(old), before.st_ino)
    assert (new[:MIB], new[-MIB:]) == (old[:MIB], old[-MIB:]), "only the middle differs"


# -- the weights changed


@pytest.mark.slow
def test_changed_weights_are_another_cell_and_no_old_number_is_reused(
    launch: Command, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_files, "LARGE", MIB)
    words = ("k=1", "algo=one_shot", f"model.path={large}")
    begun = launch(*words)
    first = begun.result()
    assert re.search(r"\d MB .*weights", begun.err), "large files show their progress"
    assert launch(*words).nothing_ran
    negate(large)
    ended = launch(*words)
    assert not ended.nothing_ran
    (second,) = [result for result in ended.all() if result["cell"] != first["cell"]]
    assert second["model"]["revision"] != first["model"]["revision"]
    assert second["search"]["evaluations_paid"] == first["search"]["evaluations_paid"], "losses were reused"
    for kind in ("dense", "pruned"):
        assert second["evaluation"][kind]["ppl/heldout"] != first["evaluation"][kind]["ppl/heldout"]
    with pytest.raises(InputError, match="model"):
        request.of_cell(ended.results / first["cell"], Path("out").resolve())


@pytest.mark.parametrize("name", ["sub/weights.safetensors", ".weights.safetensors", "README2.safetensors"])
def test_weights_under_any_name_are_part_of_the_identity(name: str, large: Path) -> None:
    moved = large / name
    moved.parent.mkdir(exist_ok=True)
    (large / "model.safetensors").rename(moved)
    with safe_open(moved, framework="pt") as stream:
        index = {"metadata": {}, "weight_map": dict.fromkeys(stream.keys(), name)}
    (large / "model.safetensors.index.json").write_text(json.dumps(index))
    before = find_files(str(large)).digest
    content = bytearray(moved.read_bytes())
    content[len(content) // 2] ^= 128
    moved.write_bytes(content)
    assert find_files(str(large)).digest != before


COUNTED = dict.fromkeys(
    ("model.safetensors", "config.json", "tokenizer.json", "adapter_model.safetensors"), True
)
COUNTED |= dict.fromkeys(("README.md", "LICENSE", "optimizer.pt", ".lock", "pytorch_model.bin"), False)


@pytest.mark.parametrize("name", COUNTED)
def test_the_identity_is_that_of_the_files_that_are_read(large: Path, name: str) -> None:
    before = find_files(str(large)).digest
    file = large / name
    content = bytearray(file.read_bytes() if file.exists() else b"")
    content[len(content) // 2 : len(content) // 2 + 1] = b"#"
    file.write_bytes(bytes(content))
    assert (find_files(str(large)).digest != before) == COUNTED[name]


def test_a_directory_given_as_a_hub_id_is_identified_by_its_contents(large: Path) -> None:
    before = Model("qwen3", "hub", str(large)).identity()
    negate(large)
    assert Model("qwen3", "hub", str(large)).identity() != before


def test_a_hub_model_is_identified_by_its_commit(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {path.name: path.read_bytes() for path in model_folder.iterdir()}
    cached(tmp_path, monkeypatch, "owner/name", files, commit := "c" * 40)
    for revision in (None, "main", commit):
        model = Model("x", "hub", "owner/name", revision=revision, dtype="float32")
        assert model.load_anew().info.revision == commit


# -- names


NAMES = {
    "/m/my model (2)": "my_model__2_",
    "/m/.hidden": "hidden",
    "/m/Größe": "Größe",
    "/": "local",
    "/m/x.gguf": "x",
    f"/m/{'n' * 300}": "n" * 40,
}


def test_a_model_is_named_after_its_directory() -> None:
    for path, name in NAMES.items():
        assert directory_name(Path(path)) == name
        assert Model(directory_name(Path(path)), "local", path.removesuffix(".gguf")).name == name
    with pytest.raises(InputError, match="160"):
        Model("n" * 161, "hub", "a/b")


def test_two_directories_of_one_name_are_refused_in_one_grid(
    launch: Command, model_folder: Path, tmp_path: Path
) -> None:
    paths = [Path(shutil.copytree(model_folder, tmp_path / name / "base")) for name in ("a", "b")]
    ended = launch("-m", "k=1", "algo=one_shot", f"model.path={paths[0]},{paths[1]}", "model.name=")
    assert ended.status == 2
    assert re.search(rf"model\.name=base .*{paths[0]}, {paths[1]}", ended.err)


BAD_PATHS = {
    "absent file": (["model=local", "model.path=absent.gguf"], "model.path=absent.gguf"),
    "two files": (["model=local", "model.path=files/one.gguf", "model.gguf_file=two.gguf"], "two.gguf"),
    "another file": (["model=local", "model.path=notes.txt"], "model.path=notes.txt"),
    "several": (["model=local", "model.path=files"], "2 GGUF files"),
    "a file on a hub": (["model=qwen3", "model.gguf_file=x.gguf"], "model.gguf_file=x.gguf"),
    "packaged": (["model.path=files/one.gguf"], "model=local model.path=files/one.gguf"),
    "packaged directory": (["model.path=/some/where"], "model=local model.path=/some/where"),
    "packaged name": (["model.path=smollm"], "smollm2"),
}


@pytest.mark.parametrize(("words", "named"), BAD_PATHS.values(), ids=BAD_PATHS)
def test_a_path_that_is_no_model_is_refused_with_the_cure(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=re.escape(named)):
        request.parse(["--drop", "1", "out=out", *words])


def test_an_adapter_stops_a_launch_and_an_export(folder: Path, gguf: Path, tmp_path: Path) -> None:
    shutil.copyfile(gguf, folder / "tiny.gguf")
    (folder / ADAPTER_CONFIG).write_text('{"peft_type": "LORA"}')
    for path in (folder, folder / "tiny.gguf"):
        with pytest.raises(InputError, match=ADAPTER_CONFIG):
            _ = local(path).place
    with pytest.raises(InputError, match=ADAPTER_CONFIG):
        pipeline.export(request.Request(local(folder), Mask(6, (1,)), tmp_path / "out"))


# -- GGUF files


def drop(path: Path, out: Path) -> Any:
    """The request for a model without two blocks."""
    return request.parse(["--drop", "1,4", f"out={out}", "model=local", f"model.path={path}"])


def test_a_gguf_file_is_a_model(gguf: Path, tmp_path: Path) -> None:
    model = build_option("model", ["model=local", f"model.path={gguf}", "model.dtype=float32"])
    assert (model.name, model.path, model.gguf_file) == ("one", str(gguf.parent), "one.gguf")
    before = model.identity()
    assert before == local(gguf.parent, gguf_file="one.gguf").identity()
    assert before["path"] == file_digests([gguf])[gguf]
    (gguf.parent / "two.gguf").write_bytes(b"another file")
    (gguf.parent / "notes.json").write_text("{}")
    assert model.identity() == before
    assert model.n_blocks == gguf_models.N_BLOCKS
    facts = pipeline.export(drop(gguf, tmp_path / "out"))
    assert EQUAL in facts.proof
    assert facts.name.startswith("one-4-of-6")
    assert all(str(tmp_path).encode() not in path.read_bytes() for path in (tmp_path / "out").iterdir())


def test_a_gguf_file_of_that_name_in_the_current_folder_is_not_read(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def weights(model: Any) -> Any:
        return model.get_input_embeddings().weight.detach()

    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        right = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=str(gguf), dtype=torch.float32)
    for name in (gguf.name, "out.gguf"):
        gguf_models.write(tmp_path / "elsewhere" / name, type_="Q8_0", seed=1)
    monkeypatch.chdir(tmp_path / "elsewhere")  # transformers would prefer the file that is here
    for given in (gguf, Path("..") / gguf.parent.name / gguf.name):
        assert torch.equal(weights(local(given).load_anew().module), weights(right))
    folder = _convert(gguf, tmp_path / "converted", "float32")
    assert torch.equal(weights(AutoModelForCausalLM.from_pretrained(folder)), weights(right))
    assert all(str(tmp_path).encode() not in path.read_bytes() for path in folder.iterdir())
    assert EQUAL in pipeline.written(drop(gguf, tmp_path / "out.gguf")).proof


def test_a_tokenizer_beside_a_gguf_file_is_not_read(gguf: Path, model_folder: Path) -> None:
    alone = local(gguf).tokenizer.get_vocab()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(model_folder / name, gguf.parent / name)
    (gguf.parent / "generation_config.json").write_text('{"repetition_penalty": 5.0}')
    model = local(gguf)
    assert model.tokenizer.get_vocab() == alone
    assert model.load_anew().module.generation_config.repetition_penalty != 5.0
