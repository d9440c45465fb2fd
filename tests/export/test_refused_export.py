"""What cannot be exported is refused with the setting and its value, and no file changes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from pruning.core.errors import DamagedError, InputError, PruningError, UnreachableError, UnskippableError
from pruning.core.mask import Mask
from pruning.export.checkpoint import block_prefix, stored_tensors
from pruning.export.gguf_export import check_gguf_target, export_gguf
from pruning.export.pipeline import export
from pruning.export.request import of_cell, parse
from pruning.models import gguf
from pruning.models.handle import Model
from pruning.models.output_maps import Repair
from tests.helpers import gguf_models
from tests.helpers.architectures import PARALLEL
from tests.helpers.damage import edit_config, tree
from tests.helpers.exports import saved, wanted
from tests.helpers.results import a_result

Attempt = Callable[[], object]
Use = Callable[[str], Any]  # of a fixture, by its name


# Each of these functions writes files beside `dense`, a copy of the tests' model, and returns what must be refused.


def words(folder: Path, _: Use, text: str) -> Attempt:
    """The arguments of a command: `@` stands for the model, and `@folder` for its folder, which has no result."""
    local = {"@": ["model=local", f"model.path={folder / 'dense'}"], "@folder": [str(folder / "dense")]}
    return partial(parse, [part for word in text.split() for part in local.get(word, [word])])


def cell(folder: Path, _: Use, text: str) -> Attempt:
    (folder / "result.json").write_text(text)
    return partial(of_cell, folder, folder / "out")


def directory(folder: Path, use: Use, given: tuple[dict[str, Any], dict[str, Any]]) -> Attempt:
    """A request to export a model with these settings to a full disk; it is refused before the model is loaded."""
    patch = use("monkeypatch")
    patch.setattr(Model, "load_anew", lambda *_: pytest.fail("the model was loaded"))
    patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 1000))
    edit_config(folder / "dense", **given[0])
    return partial(export, wanted(folder / "dense", **{"mask": (1,), **given[1]}))


def built(folder: Path, _: Use, given: tuple[str, dict[str, Any]]) -> Attempt:
    """A request for a model of another architecture."""
    return partial(export, wanted(saved(given[0], folder / "built")[1], **given[1]))


def inside(folder: Path, _: Use, out: str) -> Attempt:
    model = Path(shutil.copytree(folder / "dense", folder / out / "dense"))
    return partial(export, wanted(model, (1,), out=folder / out, force=True))


def stored(_: Path, __: Use, given: dict[str, int]) -> Attempt:
    """The names in a checkpoint, by prefix and number of blocks, for a model with four blocks in `c.layers`."""
    names = [f"{prefix}.{i}.mlp.weight" for prefix, count in given.items() for i in range(count)]
    return partial(block_prefix, names, "c.layers", 4)


def incomplete(folder: Path, _: Use, lacking: str) -> Attempt:
    names = [f"model-{n:05d}-of-00005.safetensors" for n in range(1, 6)]
    for name in {*names} - {lacking}:
        (folder / name).touch()
    index = json.dumps({"weight_map": {name: name for name in names}})
    (folder / "model.safetensors.index.json").write_text(index)
    return partial(stored_tensors, folder)


def cut(folder: Path, use: Use, given: dict[str, Any]) -> Attempt:
    """A request for a GGUF file, with a full disk."""
    full = Mock(side_effect=OSError(28, "No space left on device"))
    use("monkeypatch").setattr(gguf, "write_gguf", full)
    settings = {"mask": (1,), **given, "out": folder / given.get("out", "out.gguf")}
    return partial(export_gguf, wanted(gguf_models.write(folder / "tiny.gguf"), **settings))


def target(folder: Path, _: Use, name: str) -> Attempt:
    """A GGUF file to be written where there are files of others."""
    gguf_models.write(folder / "tiny.gguf")
    (folder / "folder.gguf").mkdir()
    for file in ("text.gguf", "new.gguf.md"):
        (folder / file).write_text("mine")
    return partial(check_gguf_target, folder / name, {"mask": 1})


def ended(folder: Path, use: Use, words: str) -> Attempt:
    """A launch that is to export its cell, where there are files of others and a cut file."""
    (folder / "taken").mkdir()
    for taken in ("taken/file", "taken.gguf"):
        (folder / taken).write_text("x")
    path = gguf_models.write(folder / "models" / "tiny.gguf", "llama", "Q8_0")
    export_gguf(wanted(path, (1, 4), out=folder / "cut.gguf", verify=False))

    def attempt() -> None:
        end = use("launch")(*words.split())
        assert (end.status, end.all()) == (2, []), end.err
        raise InputError(" ".join(end.err.split()))

    return attempt


DONE = a_result() | {"config": {}}
GGUF = "k=1 model.path=models/tiny.gguf export=new.gguf"  # a Llama in Q8_0
FACTORS = "compensation=magnitude"
# By case: what is attempted, with what, and what the message names.
REFUSED: dict[str, tuple[Callable[[Path, Use, Any], Attempt], Any, str]] = {
    "no mask": (words, "out=x", "0 .*--drop"),
    "two masks": (words, "a b out=x", "2 .*--drop"),
    "no out": (words, "--drop 1", "out=DIR"),
    "letters": (words, "--drop 1,b out=x @", "'1,b'"),
    "outside": (words, "--drop 6 out=x @", r"\[6\].* 0 .*5"),
    "no such part": (words, "--drop a1,m6 out=x @", r"\[13\]"),
    "no file": (words, "nowhere out=x", "nowhere"),
    "setting": (words, "--drop 1 out=x forse=true", "'forse'.*force"),
    "truth": (words, "--drop 1 out=x force=perhaps @", "force=perhaps .*true .*false"),
    "model": (words, "--drop 1 out=x model=smollm", "'smollm'.*smollm2"),
    "field": (words, "--drop 1 out=x model.dtyp=x", "'dtyp'.*dtype"),
    "dtype": (words, "--drop 1 out=x model.dtype=float8", r"model\.dtype 'float8'.*float"),
    "path": (words, "--drop 1 out=x model=local", r"model=local .*model\.path="),
    "place": (words, "--drop 1 out=x model=local model.path=nowhere", r"model\.path=nowhere"),
    "no result": (words, "@folder out=x", r"result\.json"),
    "no network": (words, "--drop 1 out=x model=qwen3", "qwen3 .*Qwen/Qwen3-8B"),
    "no JSON": (cell, "{", r"result\.json"),
    "no object": (cell, "[]", r"result\.json"),
    "no model": (cell, json.dumps(DONE), r"result\.json"),
    "a failed cell": (cell, json.dumps(DONE | {"status": "failed"}), r"\(failed\)"),
    "nothing": (directory, ({}, {"mask": ()}), "0 of 6"),
    "everything": (directory, ({}, {"mask": tuple(range(6))}), "6 of 6"),
    "another model": (directory, ({}, {"mask": Mask(7, (1,))}), "7 .*tiny .*6"),
    "quantised": (directory, ({"quantization_config": {"quant_method": "fp8"}}, {}), "fp8"),
    "shared keys": (directory, ({"num_kv_shared_layers": 2}, {}), "last 2 "),
    "full disk": (directory, ({}, {}), r"0\.0 MB .*0\.\d MB"),
    **{name: (built, (name, {"mask": Mask.parse(6, "a0 m1 b2 a5")}), "unit=block") for name in PARALLEL},
    "no fold": (built, ("gemma3", {"mask": (1, 2, 4), "repair": Repair({1: torch.eye(32)})}), "m0"),
    "inside": (inside, "out", "out .*dense"),
    "too few blocks": (stored, {"c.layers": 3}, r"c\.layers\.0\."),
    "two prefixes": (stored, {"a.layers": 4, "b.layers": 4}, r"a\.layers.*b\.layers"),
    "lacking": (incomplete, "model-00002-of-00005.safetensors", "1 of 5 .*model-00002-of-00005"),
    "cut: nothing": (cut, {"mask": ()}, "0 of 6"),
    "cut: another model": (cut, {"mask": Mask(7, (1,))}, r"7 .*tiny\.gguf .*6"),
    "cut: parts": (cut, {"mask": Mask.parse(6, "a1 b2")}, "parts"),
    "cut: healed": (cut, {"healed": True, "result": {"heal": {}}}, "heal"),
    "cut: maps": (cut, {"repair": Repair({1: 2 * torch.eye(64)})}, "repair"),
    "cut: in place": (cut, {"out": "tiny.gguf", "force": True}, r"out=.*tiny\.gguf"),
    "cut: full disk": (cut, {}, r"out\.gguf .*No space left on device"),
    **{name: (target, name, name) for name in ("tiny.gguf", "text.gguf", "folder.gguf", "new.gguf")},
    "launch: two cells": (ended, "-m k=1,2 export=out", "export=DIR .*2"),
    "launch: foreign": (ended, "k=1 export=taken", "taken .*file"),
    "launch: in a file": (ended, "k=1 export=taken/file", "taken/file"),
    "launch: no gguf": (ended, "k=1 export=new.gguf", "safetensors"),
    "launch: foreign gguf": (ended, "k=1 export=taken.gguf", r"taken\.gguf"),
    "launch: another mask": (ended, "k=1 model.path=models/tiny.gguf export=cut.gguf", r"cut\.gguf .*mask"),
    "launch: parts": (ended, f"{GGUF} unit=sublayer", "unit=block"),
    "launch: healed": (ended, f"{GGUF} heal=full", "heal=none"),
    "launch: maps": (ended, f"{GGUF} compensation=linear protect.first=1", "compensation=none"),
    "launch: factors": (ended, f"{GGUF} {FACTORS}", "compensation=none"),
    "launch: factors of a directory": (ended, f"k=1 {FACTORS} export=out", FACTORS),
}
KINDS: dict[str, type[PruningError]] = {"no network": UnreachableError}
KINDS |= dict.fromkeys(("no JSON", "no object", "no model"), DamagedError)
KINDS |= dict.fromkeys((*PARALLEL, "too few blocks", "two prefixes"), UnskippableError)


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_exported_is_refused_and_changes_nothing(
    model_folder: Path, tmp_path: Path, request: pytest.FixtureRequest, case: str
) -> None:
    ready, given, named = REFUSED[case]
    shutil.copytree(model_folder, tmp_path / "dense")
    attempt = ready(tmp_path, request.getfixturevalue, given)
    before, paths = tree(tmp_path), {*tmp_path.rglob("*")}
    with pytest.raises(KINDS.get(case, InputError), match=named):
        attempt()
    assert tree(tmp_path) == before
    assert {*tmp_path.rglob("*")} - paths <= {tmp_path / "results"}  # which a launch makes
