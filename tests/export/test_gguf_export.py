"""Cut GGUF files: transformers computes from them, bit for bit, what the whole file gives with the mask."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
from pathlib import Path
from typing import Any

import pytest
import torch

from pruning.core.errors import InputError, MismatchError
from pruning.core.mask import Mask
from pruning.export import gguf_export, pipeline, request
from pruning.export.gguf_export import card_of, export_gguf
from pruning.export.request import Request, is_gguf
from pruning.models import gguf as cutting
from pruning.models import kept_models
from pruning.models.gguf import open_gguf
from pruning.models.handle import Model
from pruning.models.sublayers import masked
from tests.helpers import exports, gguf_models
from tests.helpers.exports import EQUAL, wanted

IDS = torch.tensor([[3, 14, 15, 9, 26, 5, 35, 8, 9, 7, 31, 2, 44, 3, 18]])  # longer than the sliding windows


def load(path: Path) -> Any:
    with contextlib.redirect_stderr(io.StringIO()):
        return exports.load(path.parent, gguf_file=path.name, dtype=torch.float32)


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


# Every architecture and every type of weights, with removed blocks after which the kinds still follow the rule.
CASES = [
    ("llama", "F32", (2, 3)),
    ("qwen2", "F16", (2, 3)),
    ("qwen3", "Q8_0", (2, 3)),
    ("qwen3moe", "Q4_0", (2, 3)),
    ("gemma2", "BF16", (2, 3)),
    ("gemma3", "Q8_0", (5,)),
]


@pytest.mark.parametrize(("kind", "type_", "dropped"), CASES)
def test_a_cut_file_is_the_masked_model(
    tmp_path: Path, kind: str, type_: str, dropped: tuple[int, ...]
) -> None:
    path = gguf_models.write(tmp_path / "tiny.gguf", kind, type_)
    found = export_gguf(wanted(path, dropped))
    assert EQUAL in found.proof
    assert found.file is not None
    assert found.file.listed is None
    dense = load(path)
    with masked(dense, Mask(6, dropped)):
        expected = logits(dense)
    assert torch.equal(logits(load(tmp_path / "out.gguf")), expected)
    assert not torch.equal(expected, logits(dense))
    assert {p.name for p in tmp_path.iterdir()} == {"tiny.gguf", "out.gguf", "out.gguf.md"}


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize(
    ("kind", "dropped", "listed"),
    [("gemma2", (0, 5), [False, True] * 2), ("gemma3", (0, 1), [True, True, True, False])],
)
def test_kinds_that_do_not_follow_the_rule_are_listed_and_said(
    tmp_path: Path, kind: str, dropped: tuple[int, ...], listed: list[bool], verify: bool
) -> None:
    path, out = gguf_models.write(tmp_path / "tiny.gguf", kind), tmp_path / "out.gguf"
    found = export_gguf(wanted(path, dropped, verify=verify))
    assert (EQUAL in found.proof) == verify
    assert open_gguf(out).own("attention.sliding_window_pattern") == listed
    assert found.file is not None
    assert found.file.listed == f"{kind}.attention.sliding_window_pattern"
    dense = load(path)
    with masked(dense, Mask(6, dropped)):
        assert not torch.equal(logits(load(out)), logits(dense)), "transformers alone knows only the rule"


def other_block(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = cutting.plan_gguf
    monkeypatch.setattr(cutting, "plan_gguf", lambda file, _, record: plan(file, Mask(6, (1, 3)), record))


def no_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_export, "_kinds", lambda _: None)


@pytest.mark.parametrize(
    ("kind", "dropped", "fault"), [("gemma2", (0, 5), no_kinds), ("llama", (1, 4), other_block)]
)
def test_a_wrong_list_and_a_wrong_block_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, dropped: tuple[int, ...], fault: Any
) -> None:
    path = gguf_models.write(tmp_path / "tiny.gguf", kind)
    fault(monkeypatch)
    with pytest.raises(MismatchError, match=r"logits .* token \d+ of \d+"):
        export_gguf(wanted(path, dropped))
    assert {p.name for p in tmp_path.iterdir()} == {"tiny.gguf"}


def test_a_cut_file_can_be_cut_again(tmp_path: Path) -> None:
    path = gguf_models.write(tmp_path / "tiny.gguf", "qwen2", "Q4_0")
    export_gguf(wanted(path, (1, 4)))
    first = (tmp_path / "out.gguf").rename(tmp_path / "first.gguf")
    card_of(tmp_path / "out.gguf").unlink()
    export_gguf(wanted(first, Mask(4, (0,))))
    at_once = gguf_models.write(tmp_path / "two" / "tiny.gguf", "qwen2", "Q4_0")
    export_gguf(wanted(at_once, (0, 1, 4)))
    twice, once = (open_gguf(folder / "out.gguf").tensors for folder in (tmp_path, tmp_path / "two"))
    assert [(name, bytes(t.data)) for name, t in twice.items()] == [
        (name, bytes(t.data)) for name, t in once.items()
    ]


def test_the_command_cuts_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = gguf_models.write(
        tmp_path / "tiny.gguf", "qwen2", "Q8_0", lambda one: one.add_license("apache-2.0")
    )
    out = tmp_path / "cut.gguf"
    words = ["--drop", "1,4", f"out={out}", "model=local", f"model.path={path}"]
    monkeypatch.setattr("sys.argv", ["export", *words])
    pipeline.main()
    assert "(2 of 6 blocks: 1 4)" in capsys.readouterr().out
    assert open_gguf(out).n_blocks == 4
    card, digest = card_of(out).read_text(), hashlib.sha256(out.read_bytes()).hexdigest()
    for part in ("license: apache-2.0", "weights in Q8_0, F32", "FROM ./cut.gguf", "out=FILE.gguf", digest):
        assert part in card
    assert str(tmp_path) not in card


def test_an_architecture_that_transformers_cannot_load_is_cut_unproven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gguf_models.KINDS, "olmo", gguf_models.KINDS["llama"])
    path = gguf_models.write(tmp_path / "tiny.gguf", "olmo")
    with pytest.raises(InputError, match=r"olmo .*verify=false"):
        export_gguf(wanted(path, (1,)))
    words = ["--drop", "1", f"out={tmp_path / 'out.gguf'}", "model=local", f"model.path={path}"]
    assert "verify=false" in export_gguf(request.parse([*words, "verify=false"])).proof


def test_a_packaged_model_is_cut_from_its_gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = gguf_models.write(tmp_path / "wheel" / "tiny.gguf", "llama", "Q4_0")
    monkeypatch.setattr(kept_models, "extract", lambda *_: path)
    settings = Model("smollm2", "packaged", "smollm2", dtype="bfloat16")
    found = export_gguf(Request(settings, Mask(6, (1,)), tmp_path / "out.gguf"))
    assert EQUAL in found.proof
    assert found.base == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert gguf_export.find_gguf(settings)[1].dtype == "float32"


def test_only_a_cut_of_the_same_file_and_mask_is_replaced(tmp_path: Path) -> None:
    assert [is_gguf(Path(name)) for name in ("a.gguf", "a.GGUF", "gguf")] == [True, True, False]
    given = wanted(gguf_models.write(tmp_path / "tiny.gguf"), (1,), verify=False)
    export_gguf(given)
    first = given.out.read_bytes()
    card_of(given.out).write_text("older")
    export_gguf(given)
    assert given.out.read_bytes() == first
    assert card_of(given.out).read_text() != "older", "the card belongs to the file"
    other = dataclasses.replace(given, mask=given.mask.dense.drop(2))
    with pytest.raises(InputError, match=r" mask: .*force=true"):
        export_gguf(other)
    assert given.out.read_bytes() == first
    export_gguf(dataclasses.replace(other, force=True))
    assert given.out.read_bytes() != first


# An output layer beside the embedding: the copy of a tied model is tied again, and a different one is kept.

TYPES = [("Q4_0", "Q8_0"), ("Q8_0", "Q4_0"), ("Q4_0", "Q4_0"), ("F16", "BF16"), ("F32", "F32")]


@pytest.mark.parametrize(("embedded", "head"), TYPES)
def test_a_copied_head_is_tied(tmp_path: Path, embedded: str, head: str) -> None:
    path = gguf_models.write(tmp_path / "tiny.gguf", "qwen2", embedded, head=(head, 0.0))
    request = wanted(path, (1, 4), out=tmp_path / "out")
    model = request.model.load_anew().module
    assert model.config.tie_word_embeddings
    weight = model.get_input_embeddings().weight
    assert weight is model.get_output_embeddings().weight
    precise = "output.weight" if head == "Q8_0" else "token_embd.weight"
    if {embedded, head} == {"Q4_0", "Q8_0"}:
        (values,) = cutting.vectors(open_gguf(path).tensors[precise])
        assert torch.equal(weight.detach(), torch.from_numpy(values))
    if embedded != head:  # transformers ties equal tensors itself
        assert load(path).num_parameters() == model.num_parameters() + weight.numel()
    found = pipeline.export(request)
    assert EQUAL in found.proof
    assert "so the two are tied" in (tmp_path / "out" / "README.md").read_text()
    smaller = exports.load(tmp_path / "out")
    assert smaller.config.tie_word_embeddings
    assert torch.equal(smaller.get_output_embeddings().weight, weight)
    assert EQUAL in export_gguf(wanted(path, (1, 4), out=tmp_path / "out.gguf")).proof


@pytest.mark.parametrize(("head", "far"), [("Q8_0", 1.0), ("Q8_0", 0.5), ("F32", 0.05), ("Q4_0", 1.0)])
def test_another_head_is_not_tied(tmp_path: Path, head: str, far: float) -> None:
    embedded = "F32" if head == "F32" else "Q4_0"
    path = gguf_models.write(tmp_path / "tiny.gguf", "qwen2", embedded, head=(head, far))
    request = wanted(path, (1, 4), out=tmp_path / "out")
    model = request.model.load_anew().module
    assert not model.config.tie_word_embeddings
    assert not torch.equal(model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    assert EQUAL in pipeline.export(request).proof
    assert "are tied" not in (tmp_path / "out" / "README.md").read_text()
    assert EQUAL in export_gguf(wanted(path, (1, 4), out=tmp_path / "out.gguf")).proof


def test_one_other_vector_is_enough_for_another_head(tmp_path: Path) -> None:
    path = gguf_models.write(tmp_path / "tiny.gguf", "qwen2", "F32", head=("F32", 0.0))
    file = open_gguf(path)
    assert cutting.copied_head(file) is not None
    values = file.tensors["output.weight"].data.copy()
    values[-4 * gguf_models.WIDTH :] = 0
    other = dataclasses.replace(file.tensors["output.weight"], data=values)
    assert cutting.copied_head(dataclasses.replace(file, tensors={**file.tensors, other.name: other})) is None
