"""A model in a directory is what all its bytes say, whatever its name, its path and its time stamps."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pruning.calibration import sources
from pruning.calibration.text import Text
from pruning.config.app import build_option
from pruning.core import storage
from pruning.core.errors import InputError, UnskippableError
from pruning.core.wheels import cache_folder
from pruning.export import pipeline, request
from pruning.models import kept_models, model_files
from pruning.models import model as model_module
from pruning.models.architecture import check_stored
from pruning.models.kept_models import WEIGHTS, _convert, check_adapter, merged_folder, quiet
from pruning.models.model import Model, directory_name, distinct_names
from pruning.models.model_files import ADAPTER_CONFIG, file_digests, find_files, model_digest
from tests.conftest import Command
from tests.helpers import gguf_file
from tests.helpers.hub_cache import cached

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("DEPTH_PRUNING_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    model_module._loaded.clear()


@pytest.fixture(scope="module")
def large_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A Llama of six blocks and 3.2 MB, so that the middle of its file is farther than 1 MiB from both ends."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=0,
    )
    folder = tmp_path_factory.mktemp("large")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def large(large_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(large_folder, tmp_path / "large"))


def negate(folder: Path, restore: bool = False) -> None:
    """Negate a matrix in the middle of the file in place; with `restore`, put the time of modification back."""
    file = folder / "model.safetensors"
    before = file.stat()
    ends = [file.read_bytes()[:MIB], file.read_bytes()[-MIB:]]
    weights = load_file(file)
    weights["model.layers.3.mlp.down_proj.weight"].neg_()
    content = Path(f"{file}.new")
    save_file(weights, content, metadata={"format": "pt"})
    with file.open("r+b") as stream:
        stream.write(content.read_bytes())
    content.unlink()
    if restore:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    assert file.stat().st_ino == before.st_ino
    assert [file.read_bytes()[:MIB], file.read_bytes()[-MIB:]] == ends, "an earlier version sees a difference"


def aged(folder: Path, seconds: int = 3600) -> None:
    for file in folder.iterdir():
        os.utime(file, (time.time() - seconds,) * 2)


# --- item 1: the weights changed


@pytest.mark.slow
@pytest.mark.parametrize("restore", [False, True], ids=["new time", "old time"])
def test_changed_weights_are_another_cell_and_no_old_number_is_reused(
    launch: Command, large: Path, restore: bool
) -> None:
    words = ("k=1", "algo=one_shot", f"model.path={large}")
    first = launch(*words).result()
    assert "every cell was done" in launch(*words).err
    negate(large, restore)
    ended = launch(*words)
    assert "every cell was done" not in ended.err
    (second,) = [result for result in ended.all() if result["cell"] != first["cell"]]
    assert second["model"]["revision"] != first["model"]["revision"]
    assert second["search"]["evaluations_paid"] == first["search"]["evaluations_paid"], "losses were reused"
    for kind in ("dense", "pruned"):
        assert second["evaluation"][kind]["ppl/heldout"] != first["evaluation"][kind]["ppl/heldout"]
    with pytest.raises(InputError, match="does not hold the model that the cell was run on") as refused:
        request.of_cell(ended.results / first["cell"], Path("out").resolve())
    assert "\n" not in str(refused.value)


def test_weights_that_change_while_a_command_runs_fail_the_cell(
    launch: Command, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Model.load_anew

    def late(model: Model) -> Any:
        negate(large)
        return honest(model)

    monkeypatch.setattr(Model, "load_anew", late)
    ended = launch("k=1", f"model.path={large}")
    assert ended.status == 1
    assert "has changed since this command started" in ended.result()["error"]["message"]


@pytest.mark.parametrize("name", ["sub/weights.safetensors", ".weights.safetensors", "README2.safetensors"])
def test_weights_under_any_name_are_part_of_the_identity(name: str, large: Path) -> None:
    moved = large / name
    moved.parent.mkdir(exist_ok=True)
    (large / "model.safetensors").rename(moved)
    with safe_open(moved, framework="pt") as stream:
        index = {"metadata": {}, "weight_map": dict.fromkeys(stream.keys(), name)}
    (large / "model.safetensors.index.json").write_text(json.dumps(index))
    before = model_digest(str(large))
    content = bytearray(moved.read_bytes())
    content[len(content) // 2] ^= 128
    moved.write_bytes(content)
    assert model_digest(str(large)) != before


def test_a_file_is_read_once_until_it_changes(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    honest = model_files._read

    def counting(file: Path, *rest: Any) -> str:
        read.append(file)
        return honest(file, *rest)

    monkeypatch.setattr(model_files, "_read", counting)
    monkeypatch.setattr(storage, "WRITTEN_BACK", -1)
    weights = large / "model.safetensors"

    def reads() -> int:
        read.clear()
        model_digest(str(large))
        return read.count(weights)

    assert [reads(), reads()] == [1, 0]
    (entry,) = [e for e in (cache_folder() / "digests").glob("*.json") if "model.s" in e.read_text()]
    kept = json.loads(entry.read_text())
    for damage in (
        "",
        "[]",
        "{",
        json.dumps({**kept, "sha256": "0" * 63}),
        json.dumps({**kept, "state": [1]}),
    ):
        entry.write_text(damage)
        assert reads() == 1, f"a damaged entry was used: {damage}"
        assert json.loads(entry.read_text()) == kept
    negate(large, restore=True)
    assert reads() == 1


def test_of_several_who_need_a_digest_only_one_reads_the_file(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    honest = model_files._read

    def slow(file: Path, *rest: Any) -> str:
        read.append(file)
        time.sleep(0.1)
        return honest(file, *rest)

    monkeypatch.setattr(model_files, "_read", slow)
    monkeypatch.setattr(storage, "WRITTEN_BACK", -1)
    weights = large / "model.safetensors"
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: file_digests([weights])[weights], range(4)))
    assert read == [weights]
    assert len(set(answers)) == 1


def test_the_digest_of_a_file_that_has_just_changed_is_not_kept(large: Path) -> None:
    model_digest(str(large))
    kept = [path.read_text() for path in (cache_folder() / "digests").glob("*.json")]
    assert not any("model.s" in text for text in kept), (
        "the file could change again within the same time stamp"
    )


def test_a_cache_that_cannot_be_written_is_said_and_the_digest_is_right(
    large: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    right = model_digest(str(large))
    (tmp_path / "file").touch()
    monkeypatch.setenv("DEPTH_PRUNING_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        assert model_digest(str(large)) == right
    assert "DEPTH_PRUNING_CACHE=DIR" in caplog.text


def test_large_files_show_their_progress(
    large: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(model_files, "LARGE", MIB)
    with caplog.at_level(logging.INFO):
        model_digest(str(large))
    assert "MB of weights once, to identify the model" in caplog.text


COUNTED = {
    "model.safetensors": True,
    "config.json": True,
    "tokenizer.json": True,
    "adapter_model.safetensors": True,
}
COUNTED |= {
    "README.md": False,
    "LICENSE": False,
    "optimizer.pt": False,
    ".lock": False,
    "pytorch_model.bin": False,
}


@pytest.mark.parametrize("name", COUNTED)
def test_the_identity_is_that_of_the_files_that_are_read(large: Path, name: str) -> None:
    before = model_digest(str(large))
    file = large / name
    content = bytearray(file.read_bytes() if file.exists() else b"")
    content[len(content) // 2 : len(content) // 2 + 1] = b"#"
    file.write_bytes(bytes(content))
    assert (model_digest(str(large)) != before) == COUNTED[name]


def test_a_folder_with_the_name_of_a_hub_model_is_not_taken_for_it(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(model_folder, tmp_path / "Qwen" / "Qwen3-8B")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"model\.path=Qwen/Qwen3-8B .*\./Qwen/Qwen3-8B"):
        build_option("model", ["model=qwen3"])
    assert Model("mine", "local", "./Qwen/Qwen3-8B", dtype="float32").in_directory
    monkeypatch.chdir(model_folder)
    assert build_option("model", ["model=qwen3"]).path == "Qwen/Qwen3-8B"


def test_nor_a_folder_with_the_name_of_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Salesforce" / "wikitext").mkdir(parents=True)
    (tmp_path / "Salesforce" / "wikitext" / "train.jsonl").write_text('{"text": "decoy"}')
    monkeypatch.chdir(tmp_path)
    text = Text("hub", 2, 16, 0, path="Salesforce/wikitext", name=None)
    with pytest.raises(InputError, match=r"calibration\.path=Salesforce/wikitext "):
        next(sources.documents(text))


def test_a_kernel_that_a_configuration_names_is_not_fetched(model_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(model_folder, folder := tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attn_implementation": "evil/kernel"}))
    model = Model("x", "local", str(folder), dtype="float32")
    with pytest.raises(UnskippableError, match=r"evil/kernel .*model\.attention"):
        check_stored(model.config)


def test_a_directory_given_as_a_hub_id_is_identified_by_its_contents(large: Path) -> None:
    before = Model("qwen3", "hub", str(large)).identity()
    negate(large)
    assert Model("qwen3", "hub", str(large)).identity() != before


# --- item 14: an adapter


@pytest.fixture
def adapted(large: Path) -> Path:
    """A directory with a model and a LoRA adapter of rank 1 that changes one matrix."""
    shapes = {"lora_A": (1, 512), "lora_B": (64, 1)}
    prefix = "base_model.model.model.layers.3.mlp.down_proj"
    weights = {f"{prefix}.{name}.weight": torch.ones(shape) / 8 for name, shape in shapes.items()}
    save_file(weights, large / WEIGHTS)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 1,
        "lora_alpha": 2,
        "target_modules": ["down_proj"],
    }
    config |= {
        "layers_to_transform": [3],
        "layers_pattern": "layers",
        "base_model_name_or_path": "OTHER/BASE",
    }
    (large / ADAPTER_CONFIG).write_text(json.dumps(config))
    return large


def without_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = kept_models.importlib.util.find_spec
    monkeypatch.setattr(
        kept_models.importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "peft" else honest(name, *rest),
    )


Spoil = Callable[[Path], object]
ADAPTERS: dict[str, tuple[Spoil, str]] = {
    "no peft": (
        lambda _: None,
        "peft is not installed: install it (pip install peft), or merge the adapter",
    ),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "without adapter_model.safetensors"),
    "no base": (lambda folder: (folder / "model.safetensors").unlink(), "without the model that it adapts"),
}


@pytest.mark.parametrize("case", ADAPTERS)
def test_an_adapter_that_cannot_be_merged_is_refused(
    launch: Command, adapted: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    without_peft(monkeypatch)
    spoil, message = ADAPTERS[case]
    spoil(adapted)
    ended = launch("k=1", f"model.path={adapted}")
    assert ended.status == 2
    assert message in ended.err
    assert not ended.all()
    with pytest.raises(InputError, match="holds an adapter"):
        pipeline.export(
            request.Request(
                Model("m", "local", str(adapted)), pipeline.request.Mask(6, (1,)), Path("out").resolve()
            )
        )


def test_a_damaged_adapter_configuration_or_kind_is_refused(
    adapted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_models.importlib.util, "find_spec", lambda *_: True)
    (adapted / ADAPTER_CONFIG).write_text("{")
    with pytest.raises(InputError, match=r"adapter_config.json cannot be read"):
        check_adapter(find_files(str(adapted)))
    (adapted / ADAPTER_CONFIG).write_text('{"peft_type": "PREFIX_TUNING"}')
    with pytest.raises(InputError, match="of the kind PREFIX_TUNING, which cannot be merged"):
        check_adapter(find_files(str(adapted)))


class FakePeft:
    """peft as far as the merge uses it: adds the product of the two matrices, times alpha / rank."""

    class PeftModel:
        @staticmethod
        def from_pretrained(model: Any, folder: str) -> Any:
            lora = load_file(Path(folder) / WEIGHTS)
            a, b = (
                next(value for name, value in lora.items() if part in name) for part in ("lora_A", "lora_B")
            )
            model.get_parameter("model.layers.3.mlp.down_proj.weight").data += 2 * b @ a
            model.merge_and_unload = lambda **_: model
            return model


@pytest.mark.slow
def test_an_adapter_is_merged_searched_and_exported(
    launch: Command, adapted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = kept_models.importlib.util.find_spec
    monkeypatch.setattr(
        kept_models.importlib.util, "find_spec", lambda name, *rest: name == "peft" or honest(name, *rest)
    )
    monkeypatch.setitem(sys.modules, "peft", FakePeft)
    monkeypatch.setattr("transformers.integrations.peft.is_peft_available", lambda: False)
    base = load_file(adapted / "model.safetensors")
    words = ("k=1", "algo=one_shot", f"model.path={adapted}")
    merged = launch(*words, f"export={tmp_path / 'out'}")
    assert merged.status == 0, merged.err
    assert "equal bit for bit" in merged.out
    written = load_file(tmp_path / "out" / "model.safetensors")
    with_adapter = merged.result()
    (dropped,) = with_adapter["mask"]["dropped"]
    name = "model.layers.{}.mlp.down_proj.weight".format
    wanted = base[name(3)] + 2 / 64
    if dropped != 3:
        torch.testing.assert_close(written[name(3 - (dropped < 3))], wanted)
    assert "with its adapter merged" in (tmp_path / "out" / "README.md").read_text()
    (adapted / ADAPTER_CONFIG).unlink()
    (adapted / WEIGHTS).unlink()
    (alone,) = [result for result in launch(*words).all() if result["cell"] != with_adapter["cell"]]
    assert with_adapter["model"]["revision"] != alone["model"]["revision"]
    assert with_adapter["calibration"]["dense_loss"] != alone["calibration"]["dense_loss"]


def test_peft_itself_merges(adapted: Path) -> None:
    pytest.importorskip("peft")
    base = load_file(adapted / "model.safetensors")["model.layers.3.mlp.down_proj.weight"]
    folder = merged_folder(find_files(str(adapted)))
    merged = load_file(folder / "model.safetensors")
    torch.testing.assert_close(merged["model.layers.3.mlp.down_proj.weight"], base + 2 / 64)
    assert not any("lora" in name for name in merged)
    assert (folder / "tokenizer.json").exists()
    assert not find_files(str(folder)).has_adapter


# --- item 19: names, GGUF files


NAMES = {
    "/m/base": "base",
    "/m/my model (2)": "my_model__2_",
    "/m/.hidden": "hidden",
    "/m/Größe": "Größe",
    "/": "local",
    "/m/x.gguf": "x",
    "/m/a=b": "a_b",
    f"/m/{'n' * 300}": "n" * 40,
}


@pytest.mark.parametrize("path", NAMES)
def test_a_model_is_named_after_its_directory(path: str) -> None:
    assert directory_name(Path(path)) == NAMES[path]
    assert Model(directory_name(Path(path)), "local", path.removesuffix(".gguf")).name == NAMES[path]


def test_a_name_that_is_too_long_for_a_folder_is_refused() -> None:
    with pytest.raises(InputError, match="at most 160 bytes"):
        Model("n" * 161, "hub", "a/b")


def test_names_tell_paths_apart() -> None:
    assert distinct_names([Path("/a/base"), Path("/b/base")]) == ["a-base", "b-base"]
    assert distinct_names([Path("/a/b c"), Path("/a/b=c")]) == ["b_c-1", "b_c-2"]


@pytest.mark.slow
def test_two_directories_of_one_name_are_told_apart_in_one_grid(
    launch: Command, model_folder: Path, tmp_path: Path
) -> None:
    paths = [Path(shutil.copytree(model_folder, tmp_path / name / "base")) for name in ("a", "b")]
    config = json.loads((paths[1] / "config.json").read_text())
    (paths[1] / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-5}))
    words = ("-m", "k=1", "algo=one_shot", f"model.path={paths[0]},{paths[1]}")
    ended = launch(*words, "model.name=")
    assert ended.status == 0, ended.err
    assert [result["model"]["name"] for result in ended.all()] == ["a-base", "b-base"]
    assert [result["config"]["model"]["name"] for result in ended.all()] == ["a-base", "b-base"]
    moved = paths[0].rename(tmp_path / "elsewhere")
    alone = launch("k=1", "algo=one_shot", f"model.path={moved}", "model.name=")
    assert "every cell was done" in alone.err, "a directory that moved is another name for the same cell"
    ended = launch("-m", "k=1", f"model.path={moved},{paths[1]}", "model.name=same")
    assert ended.status == 2
    assert "model.name=same names 2 different models" in ended.err


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    (tmp_path / "files").mkdir()
    for name in ("one.gguf", "two.gguf"):
        gguf_file.write(tmp_path / "files" / name)
    return tmp_path / "files" / "one.gguf"


def test_a_gguf_file_is_a_model(gguf: Path) -> None:
    model = build_option("model", ["model=local", f"model.path={gguf}"])
    assert (model.name, model.path, model.gguf_file) == ("one", str(gguf.parent), "one.gguf")
    assert model.identity() == Model("x", "local", str(gguf.parent), gguf_file="one.gguf").identity()
    assert model.identity()["path"] == file_digests([gguf])[gguf]
    before = model.identity()
    (gguf.parent / "two.gguf").write_bytes(b"another file")
    (gguf.parent / "notes.json").write_text("{}")
    assert model.identity() == before
    assert model.n_blocks == gguf_file.N_BLOCKS


def test_a_gguf_file_is_exported(gguf: Path, tmp_path: Path) -> None:
    words = ["--drop", "1,4", f"out={tmp_path / 'out'}", "model=local", f"model.path={gguf}"]
    facts = pipeline.export(request.parse(words))
    assert "equal bit for bit" in facts.proof
    assert facts.name.startswith("one-4-of-6")


def weights(model: Any) -> Any:
    return model.get_input_embeddings().weight.detach()


@pytest.fixture
def decoy(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The weights of `gguf`; the current folder holds another file of its name, which transformers would prefer."""
    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        right = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=str(gguf), dtype=torch.float32)
    (tmp_path / "elsewhere").mkdir()
    for name in (gguf.name, "out.gguf"):
        gguf_file.write(tmp_path / "elsewhere" / name, seed=1)
    monkeypatch.chdir(tmp_path / "elsewhere")
    return weights(right)


def test_a_gguf_file_of_that_name_in_the_current_folder_is_not_read(gguf: Path, decoy: Any) -> None:
    for given in (gguf, Path("..") / gguf.parent.name / gguf.name):
        model = Model("x", "local", str(given), dtype="float32")
        assert torch.equal(weights(model.load_anew().module), decoy)


def test_nor_is_it_in_place_of_a_file_on_a_hub(
    gguf: Path, decoy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "a" * 40
    cached(tmp_path, monkeypatch, "owner/name", {gguf.name: gguf.read_bytes()}, commit)
    model = Model("x", "hub", "owner/name", gguf_file=gguf.name, dtype="float32")
    loaded = model.load_anew()
    assert torch.equal(weights(loaded.module), decoy)
    assert loaded.info.revision == commit
    assert model.tokenizer.get_vocab()["AB"] == gguf_file.VOCABULARY - 1


def test_a_tokenizer_beside_a_gguf_file_is_not_read(gguf: Path, model_folder: Path) -> None:
    model = Model("x", "local", str(gguf), dtype="float32")
    alone = model.tokenizer.get_vocab()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(model_folder / name, gguf.parent / name)
    (gguf.parent / "generation_config.json").write_text('{"repetition_penalty": 5.0}')
    model = Model("x", "local", str(gguf), dtype="float32")
    assert model.tokenizer.get_vocab() == alone
    assert model.load_anew().module.generation_config.repetition_penalty != 5.0


@pytest.mark.parametrize(
    "name", ["sub/tokenizer.4.0.0.json", ".tokenizer.4.0.0.json", "../tokenizer.4.0.0.json"]
)
def test_a_tokenizer_of_another_name_is_refused(name: str, model_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(model_folder, folder := tmp_path / "model")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"fast_tokenizer_files": [name]}))
    with pytest.raises(InputError, match=re.escape(f"fast_tokenizer_files=['{name}']")):
        model_digest(str(folder))


@pytest.mark.parametrize("name", ["/outside.safetensors", "../outside.safetensors"])
def test_an_index_names_files_of_its_folder(name: str, model_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(model_folder, folder := tmp_path / "model")
    (folder / "model.safetensors").replace(tmp_path / "outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(InputError, match=re.escape(name)):
        model_digest(str(folder))


def test_weights_of_another_name_are_refused(model_folder: Path, tmp_path: Path) -> None:
    """transformers reads them if the configuration names them, and the model's digest is of the usual files."""
    shutil.copytree(model_folder, folder := tmp_path / "model")
    shutil.copyfile(folder / "model.safetensors", folder / ".other.safetensors")
    config = json.loads((folder / "config.json").read_text())
    for changed in (
        {"transformers_weights": ".other.safetensors"},
        {"text_config": {"transformers_weights": "x"}},
    ):
        (folder / "config.json").write_text(json.dumps(config | changed))
        with pytest.raises(InputError, match=r"transformers_weights='(\.other\.safetensors|x)'"):
            Model("x", "local", str(folder), dtype="float32").load_anew()


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no file system in memory")
def test_a_file_in_memory_that_is_changed_through_a_mapping_has_another_digest() -> None:
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as stream:
        path = Path(stream.name)
        path.write_bytes(bytes(2 << 20))
        mapped = np.memmap(path, dtype="u1", mode="r+")
        mapped[:] = 0
        time.sleep(0.01)
        digests = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(storage, "WRITTEN_BACK", -1)
            for value in (1, 2):
                mapped[1000] = value
                mapped.flush()
                digests.append((file_digests([path])[path], storage.file_sha256(path)))
    assert digests[0] != digests[1]
    assert all(first == second for first, second in digests)


def test_a_hub_model_is_identified_by_its_commit(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {path.name: path.read_bytes() for path in model_folder.iterdir()}
    cached(tmp_path, monkeypatch, "owner/name", files, commit := "c" * 40)
    for revision in (None, "main", commit):
        model = Model("x", "hub", "owner/name", revision=revision, dtype="float32")
        assert model.load_anew().info.revision == commit


def test_nor_is_it_when_a_packaged_file_is_converted(gguf: Path, decoy: Any, tmp_path: Path) -> None:
    folder = _convert(gguf, tmp_path / "converted")
    assert torch.equal(weights(AutoModelForCausalLM.from_pretrained(folder)), decoy)
    assert all(str(tmp_path).encode() not in path.read_bytes() for path in folder.iterdir())


def test_nor_is_it_by_the_proof_of_a_cut_file(gguf: Path, decoy: Any, tmp_path: Path) -> None:
    words = ["--drop", "1,4", f"out={tmp_path / 'out.gguf'}", "model=local", f"model.path={gguf}"]
    assert "equal bit for bit" in pipeline.written(request.parse(words)).proof


def test_an_export_of_a_gguf_file_names_no_folder_of_the_machine(gguf: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pipeline.export(request.parse(["--drop", "1,4", f"out={out}", "model=local", f"model.path={gguf}"]))
    assert all(str(tmp_path).encode() not in path.read_bytes() for path in out.iterdir())


BAD_PATHS = {
    "absent file": (
        ["model=local", "model.path=absent.gguf"],
        "model.path=absent.gguf: there is no such file",
    ),
    "two files": (["model=local", "model.path=files/one.gguf", "model.gguf_file=two.gguf"], "name two files"),
    "another file": (["model=local", "model.path=notes.txt"], "is a file: give the directory that holds it"),
    "several": (["model=local", "model.path=files"], "holds 2 GGUF files: choose one, e.g. model.path="),
    "packaged": (["model.path=files/one.gguf"], "give model=local model.path=files/one.gguf"),
    "packaged directory": (["model.path=/some/where"], "give model=local model.path=/some/where"),
    "packaged name": (["model.path=smollm"], "unknown packaged model 'smollm'. Did you mean smollm2?"),
}


@pytest.mark.parametrize("case", BAD_PATHS)
def test_a_path_that_is_no_model_is_refused_with_the_cure(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").touch()
    words, message = BAD_PATHS[case]
    with pytest.raises(InputError) as refused:
        request.parse(["--drop", "1", "out=out", *words])
    assert message in str(refused.value)
