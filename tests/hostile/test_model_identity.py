"""A model in a directory is what all its bytes say, whatever its name, its path and its time stamps."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pruning.config.app import build_option
from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.export import pipeline, request
from pruning.models import handle as model_module
from pruning.models import model_files
from pruning.models.handle import Model, directory_name
from pruning.models.kept_models import _convert, quiet
from pruning.models.model_files import ADAPTER_CONFIG, file_digests, find_files
from tests.conftest import Command
from tests.helpers import gguf_models
from tests.helpers.architectures import saved_llama
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
    assert "MB of weights" in begun.err, "large files show their progress"
    assert "every cell was done" in launch(*words).err
    negate(large)
    ended = launch(*words)
    assert "every cell was done" not in ended.err
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
    assert "equal bit for bit" in facts.proof
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
    folder = _convert(gguf, tmp_path / "converted")
    assert torch.equal(weights(AutoModelForCausalLM.from_pretrained(folder)), weights(right))
    assert all(str(tmp_path).encode() not in path.read_bytes() for path in folder.iterdir())
    assert "equal bit for bit" in pipeline.written(drop(gguf, tmp_path / "out.gguf")).proof


def test_a_tokenizer_beside_a_gguf_file_is_not_read(gguf: Path, model_folder: Path) -> None:
    alone = local(gguf).tokenizer.get_vocab()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(model_folder / name, gguf.parent / name)
    (gguf.parent / "generation_config.json").write_text('{"repetition_penalty": 5.0}')
    model = local(gguf)
    assert model.tokenizer.get_vocab() == alone
    assert model.load_anew().module.generation_config.repetition_penalty != 5.0
