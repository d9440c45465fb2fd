"""Models that cannot be pruned, damaged ones, and a cache of models that is damaged or cannot be written."""

from __future__ import annotations

import ast
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import pruning
from pruning.core import wheels
from pruning.core.errors import InputError, PruningError, UnskippableError
from pruning.models import kept_models
from pruning.models.architecture import check_stored
from pruning.models.blocks import head
from pruning.models.handle import Model, _check_extra
from pruning.models.kept_models import fetch
from tests.conftest import N_BLOCKS, Command
from tests.helpers import architectures
from tests.helpers.architectures import LLAMA, TOKENS, WIDTH, build, random_model
from tests.helpers.damage import content, edit_config, edit_json, edit_weights, tree

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
    "truncated": (in_file(lambda file: file.write_bytes(file.read_bytes()[:-1000])), "truncated or damaged"),
    "empty file": (in_file(content(b"")), "truncated or damaged"),
    "dangling link": (in_file(unlink), r"no weights"),
    "config.json": (lambda f: (f / "config.json").write_text("{"), r"config\.json"),
    "impossible": (in_config(num_attention_heads=5), "attention heads"),
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
    "gemma3n": ("Gemma3nTextConfig", {"num_kv_shared_layers": 2}, "keys and values"),
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


def negate(folder: Path) -> None:
    """Change values in place: names, shapes and sizes stay."""
    edit_weights(
        folder, lambda w: {k: -v if k == "model.layers.3.mlp.down_proj.weight" else v for k, v in w.items()}
    )


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "negated": negate,
    "fewer": lambda folder: (folder / "tokenizer.json").unlink(),
    "no digests": lambda folder: folder.with_name(f"{folder.name}.json").unlink(),
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEPTH_PRUNING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def kept(model_folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A converted model in the cache."""
    monkeypatch.setattr(kept_models, "extract", lambda *_: cache / "file.gguf")
    monkeypatch.setattr(kept_models, "_convert", lambda _, target: shutil.copytree(model_folder, target))
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
    assert f"the cache folder {folder} " in ended.err
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
    assert caplog.text.count("cannot be reached (no route)") == 1
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
    assert len(found) > 12
    assert [(name, call.lineno) for name, call in found if not refuses_code(call)] == []
    (call,) = calls(ast.parse("AutoModel.from_pretrained(path, **options)"))
    assert not refuses_code(call), "what a caller passes on does not count"
