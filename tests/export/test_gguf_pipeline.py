"""Cut GGUF files: transformers computes from them, bit for bit, what the whole file gives with the mask."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import pruning
from pruning.core.errors import InputError, MismatchError
from pruning.core.mask import Mask
from pruning.export import gguf_export, pipeline, request
from pruning.export.gguf_export import card_of, export_gguf
from pruning.export.request import Request
from pruning.models import gguf as cutting
from pruning.models import kept_models
from pruning.models.gguf import open_gguf
from pruning.models.model import Model
from pruning.models.sublayers import masked
from tests.conftest import Command
from tests.helpers import gguf_models

IDS = torch.tensor([[3, 14, 15, 9, 26, 5, 35, 8, 9, 7, 31, 2, 44, 3, 18]])  # longer than the sliding windows


def wanted(path: Path, *dropped: int, **settings: Any) -> Request:
    model = Model("tiny", "local", str(path))
    return Request(model, Mask(gguf_models.N_BLOCKS, dropped), path.with_name("out.gguf"), **settings)


def load(path: Path) -> Any:
    with contextlib.redirect_stderr(io.StringIO()):
        return AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32
        ).eval()


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


# Every architecture and every type of weights
CASES = {
    "llama": "F32",
    "qwen2": "F16",
    "qwen3": "Q8_0",
    "qwen3moe": "Q4_0",
    "gemma2": "BF16",
    "gemma3": "Q8_0",
}


@pytest.mark.parametrize(("kind", "type_"), CASES.items())
def test_a_cut_file_is_the_masked_model(tmp_path: Path, kind: str, type_: str) -> None:
    path = gguf_models.write(tmp_path / "tiny.gguf", kind, type_)
    dropped = (5,) if kind == "gemma3" else (2, 3)  # the kinds of blocks still follow the rule
    found = export_gguf(wanted(path, *dropped))
    assert "equal bit for bit to those of the masked model" in found.proof
    dense = load(path)
    with masked(dense, Mask(6, dropped)):
        expected = logits(dense)
    assert torch.equal(logits(load(tmp_path / "out.gguf")), expected)
    assert not torch.equal(expected, logits(dense))
    assert {p.name for p in tmp_path.iterdir()} == {"tiny.gguf", "out.gguf", "out.gguf.md"}


@pytest.mark.parametrize("kind", ["gemma2", "gemma3"])
def test_kinds_that_do_not_follow_the_rule_are_listed_and_said(tmp_path: Path, kind: str) -> None:
    path = gguf_models.write(tmp_path / "tiny.gguf", kind)
    found = export_gguf(wanted(path, 0, 5 if kind == "gemma2" else 1))
    assert "equal bit for bit" in found.proof
    out = tmp_path / "out.gguf"
    flags = open_gguf(out).own("attention.sliding_window_pattern")
    assert flags == ([False, True] * 2 if kind == "gemma2" else [True, True, True, False])
    assert f"The file lists them (`{kind}.attention.sliding_window_pattern`)" in card_of(out).read_text()
    dense = load(path)
    with masked(dense, Mask(6, (0, 5 if kind == "gemma2" else 1))):
        assert not torch.equal(logits(load(out)), logits(dense)), "transformers alone knows only the rule"


def test_a_wrong_list_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = gguf_models.write(tmp_path / "tiny.gguf", "gemma2")
    monkeypatch.setattr("pruning.export.gguf_export._kinds", lambda _: None)
    with pytest.raises(MismatchError, match="its logits differ from those of the masked model"):
        export_gguf(wanted(path, 0, 5))
    assert not (tmp_path / "out.gguf").exists()


def test_a_wrong_block_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = gguf_models.write(tmp_path / "tiny.gguf")
    plan = cutting.plan_gguf
    monkeypatch.setattr(gguf_export, "plan_gguf", lambda file, _, record: plan(file, Mask(6, (1, 3)), record))
    with pytest.raises(MismatchError, match="its logits differ from those of the masked model"):
        export_gguf(wanted(path, 1, 4))
    assert {p.name for p in tmp_path.iterdir()} == {"tiny.gguf"}


def test_a_cut_file_can_be_searched_and_cut_again(tmp_path: Path) -> None:
    path = gguf_models.write(tmp_path / "tiny.gguf", "qwen2", "Q4_0")
    export_gguf(wanted(path, 1, 4))
    first = (tmp_path / "out.gguf").rename(tmp_path / "first.gguf")
    card_of(tmp_path / "out.gguf").unlink()
    model = Model("tiny", "local", str(first))
    export_gguf(Request(model, Mask(4, (0,)), tmp_path / "out.gguf"))
    at_once = gguf_models.write(tmp_path / "two" / "tiny.gguf", "qwen2", "Q4_0")
    export_gguf(wanted(at_once, 0, 1, 4))
    twice, once = open_gguf(tmp_path / "out.gguf"), open_gguf(tmp_path / "two" / "out.gguf")
    assert [(t.name, bytes(t.data)) for t in twice.tensors] == [(t.name, bytes(t.data)) for t in once.tensors]


def test_the_command_cuts_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = gguf_models.write(tmp_path / "tiny.gguf", "qwen2", "Q8_0")
    monkeypatch.chdir(tmp_path)
    words = ["--drop", "1,4", "out=cut.gguf", "model=local", f"model.path={path}"]
    monkeypatch.setattr("sys.argv", ["export", *words])
    pipeline.main()
    out = capsys.readouterr().out
    assert "2 of 6 blocks removed (1 4)" in out
    assert "equal bit for bit" in out
    assert open_gguf(tmp_path / "cut.gguf").n_blocks == 4
    card = (tmp_path / "cut.gguf.md").read_text()
    assert "FROM ./cut.gguf" in card
    assert "ollama create cut -f Modelfile\nollama run cut" in card
    assert str(tmp_path) not in card


def test_a_search_on_a_file_ends_with_a_file(launch: Command, tmp_path: Path) -> None:
    path = gguf_models.write(tmp_path / "models" / "tiny.gguf", "llama", "Q8_0")
    words = ["k=1", f"model.path={path}", "eval=heldout", "export=smaller.gguf", "eval.items=2"]
    ended = launch(*words, "eval.samples=2", "eval.length=16")
    assert ended.status == 0, ended.err
    assert open_gguf(tmp_path / "smaller.gguf").n_blocks == 5
    assert ended.result()["mask"]["dropped"] == [
        int(word) for word in ended.out.split("blocks removed (")[1].split(")")[0].split()
    ]
    assert "export=FILE.gguf" in (tmp_path / "smaller.gguf.md").read_text()


def test_an_impossible_file_is_refused_before_the_search(launch: Command, tmp_path: Path) -> None:
    (tmp_path / "taken.gguf").write_text("x")
    for words, message in (
        (["export=new.gguf"], "is stored as safetensors: blocks are cut out of a GGUF file only"),
        (["export=taken.gguf"], "exists, and is no GGUF file that this command wrote"),
    ):
        ended = launch("k=1", *words)
        assert ended.status == 2
        assert message in " ".join(ended.err.split())
        assert ended.all() == []


def test_weights_that_a_file_cannot_take_are_refused_before_the_search(
    launch: Command, tmp_path: Path
) -> None:
    path = gguf_models.write(tmp_path / "models" / "tiny.gguf", "llama", "Q8_0")
    file = (f"model.path={path}", "export=smaller.gguf")
    for words, message in (
        ((*file, "heal=full"), "healing changes all weights"),
        (
            (*file, "compensation=linear", "protect.first=1"),
            "is quantised (Q8_0), so nothing can be folded into it",
        ),
        (("export=smaller", "unit=sublayer", "compensation=magnitude"), "of sub-layers cannot be exported"),
    ):
        ended = launch("k=1", *words)
        assert ended.status == 2
        assert message in " ".join(ended.err.split())
        assert ended.all() == []


def test_python_writes_a_file_too(tmp_path: Path) -> None:
    path = gguf_models.write(tmp_path / "tiny.gguf")
    model = pruning.load_model(path)
    assert pruning.export_model(model, Mask(6, (1,)), tmp_path / "o.gguf") == tmp_path / "o.gguf"
    assert open_gguf(tmp_path / "o.gguf").n_blocks == 5
    wrapped = pruning.wrap_model(model.module, model.tokenizer)
    with pytest.raises(InputError, match="a model in memory has no GGUF file"):
        pruning.export_model(wrapped, Mask(6, (1,)), tmp_path / "p.gguf")


def test_an_architecture_that_transformers_cannot_load_is_cut_unproven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gguf_models.KINDS, "olmo", gguf_models.KINDS["llama"])
    path = gguf_models.write(tmp_path / "tiny.gguf", "olmo")
    with pytest.raises(
        InputError, match=r"olmo is not supported yet.* With verify=false the file is cut without"
    ):
        export_gguf(wanted(path, 1))
    words = [
        "--drop",
        "1",
        f"out={tmp_path / 'out.gguf'}",
        "model=local",
        f"model.path={path}",
        "verify=false",
    ]
    assert export_gguf(request.parse(words)).proof == "not compared with the masked model (verify=false)"
    assert open_gguf(tmp_path / "out.gguf").n_blocks == 5


def test_a_packaged_model_is_cut_from_its_gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = gguf_models.write(tmp_path / "wheel" / "tiny.gguf", "llama", "Q4_0")
    monkeypatch.setattr(kept_models, "extract", lambda *_: path)
    settings = Model("smollm2", "packaged", "smollm2", dtype="bfloat16")
    found = export_gguf(Request(settings, Mask(6, (1,)), tmp_path / "out.gguf"))
    assert "equal bit for bit" in found.proof
    assert found.base == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert gguf_export.find_gguf(settings).settings.dtype == "float32"


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nothing removed": ({"mask": Mask(6, ())}, "0 of 6 blocks removed leaves nothing to export"),
    "another model": ({"mask": Mask(7, (1,))}, "the mask is over 7 blocks"),
    "healed": ({"healed": Path("cell")}, "healed=true changes all weights of a model"),
    "form": ({"form": "zeros"}, "form=zeros is for masks that remove a part of a block"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_cut_is_refused_before_anything_is_written(tmp_path: Path, case: str) -> None:
    settings, message = REFUSED[case]
    path = gguf_models.write(tmp_path / "tiny.gguf")
    given = {
        "model": Model("tiny", "local", str(path)),
        "mask": Mask(6, (1,)),
        "out": tmp_path / "out.gguf",
    }
    with pytest.raises(InputError, match=message):
        export_gguf(Request(**{**given, **settings}))
    assert {p.name for p in tmp_path.iterdir()} == {"tiny.gguf"}


def test_the_original_is_never_overwritten(tmp_path: Path) -> None:
    path = gguf_models.write(tmp_path / "tiny.gguf")
    before = path.read_bytes()
    given = Request(Model("tiny", "local", str(path)), Mask(6, (1,)), path, force=True)
    with pytest.raises(InputError, match="is the file that is to be cut"):
        export_gguf(given)
    assert path.read_bytes() == before


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = gguf_models.write(tmp_path / "tiny.gguf")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf_export, "write_gguf", full)
    with pytest.raises(InputError, match="No space left on device"):
        export_gguf(wanted(path, 1))
    assert {p.name for p in tmp_path.iterdir()} == {"tiny.gguf"}
