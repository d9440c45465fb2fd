"""Cut a checkpoint's files, and find errors of an export."""

from __future__ import annotations

import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pruning.core.errors import MismatchError
from pruning.core.mask import Mask
from pruning.export import checkpoint, verify
from pruning.export.checkpoint import TensorPlan, block_prefix, stored_tensors, write_shards
from pruning.export.pipeline import export
from pruning.models import streaming
from pruning.models.handle import Model
from tests.helpers.architectures import N_BLOCKS, build
from tests.helpers.exports import EQUAL, saved, wanted

KB = 1000


def names(prefix: str, count: int = 4) -> list[str]:
    return [f"{prefix}.{i}.mlp.weight" for i in range(count)]


@pytest.mark.parametrize(
    ("stored", "path", "prefix"),
    [
        (names("model.layers"), "model.layers", "model.layers"),
        (names("h"), "transformer.h", "h"),
        ([*names("model.layers"), *names("model.layers.0.experts")], "model.layers", "model.layers"),
        (
            [*names("language_model.model.layers"), *names("vision_tower.encoder.layers", 9)],
            "model.language_model.layers",
            "language_model.model.layers",
        ),
        ([*names("model.layers", 6)], "model.layers", "model.layers"),  # further heads follow the blocks
    ],
    ids=["plain", "shorter", "experts", "vision", "heads"],
)
def test_blocks_are_found_in_a_checkpoints_names(stored: list[str], path: str, prefix: str) -> None:
    assert block_prefix(stored, path, 4) == prefix


def plan(dtype: torch.dtype = torch.float32, keep: tuple[str, ...] = ()) -> TensorPlan:
    return TensorPlan(Mask(4, (0, 2)), "model.layers", dtype, keep)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("model.embed.weight", "model.embed.weight"),
        ("model.layers.0.mlp.weight", None),
        ("model.layers.1.mlp.weight", "model.layers.0.mlp.weight"),
        ("model.layers.3.experts.1.w", "model.layers.1.experts.1.w"),
        ("model.layers.4.head.weight", "model.layers.2.head.weight"),
        ("other.layers.0.weight", "other.layers.0.weight"),
    ],
)
def test_blocks_are_renumbered(old: str, new: str | None) -> None:
    assert plan().rename(old) == new


def test_precision_is_that_of_the_export_unless_the_model_keeps_another() -> None:
    rule = plan(torch.bfloat16, keep=("router",))
    assert rule.precision("model.layers.1.mlp.weight", torch.float32) == torch.bfloat16
    assert rule.precision("model.layers.1.router.weight", torch.float32) == torch.float32
    assert rule.precision("model.layers.1.my_router.weight", torch.float32) == torch.bfloat16
    assert rule.precision("model.position_ids", torch.int64) == torch.int64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of 100 tensors of 4 kB in five files: four blocks of 24 tensors each, and 4 other tensors."""
    generator = torch.Generator().manual_seed(0)
    in_blocks = [f"model.layers.{i}.part{j}.weight" for i in range(4) for j in range(24)]
    every = ["a.weight", "b.weight", *in_blocks, "y.weight", "z.weight"]
    tensors = {name: torch.randn(1000, generator=generator) for name in every}
    where = {
        name: f"model-{number // 20 + 1:05d}-of-00005.safetensors" for number, name in enumerate(tensors)
    }
    for file in sorted(set(where.values())):
        save_file({name: tensors[name] for name in tensors if where[name] == file}, tmp_path / file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return tmp_path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shard", [8, 40, 400])
def test_a_checkpoint_is_written_in_files_of_at_most_a_size(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: int, dtype: torch.dtype
) -> None:
    tensors, out, index = stored_tensors(folder), tmp_path / "out", "model.safetensors.index.json"
    out.mkdir()
    monkeypatch.setattr(checkpoint, "LARGEST", f"{shard}KB")
    write_shards(tensors, plan(dtype), out)
    written: dict[str, Tensor] = {}
    for path in out.glob("*.safetensors"):
        assert path.stat().st_mode & 0o044 == (folder / index).stat().st_mode & 0o044
        part = load_file(path)
        assert sum(t.nbytes for t in part.values()) <= shard * KB
        written |= part
    kept = {plan().rename(old): old for old in tensors if plan().rename(old) is not None}
    assert len(kept) == 52
    assert {
        new: torch.equal(written[new], tensors[old].to(dtype)) for new, old in kept.items()
    } == dict.fromkeys(written, True)
    if shard == 8:
        listed = json.loads((out / index).read_text())
        assert listed["metadata"]["total_size"] == 52 * 1000 * dtype.itemsize
        assert all(name in load_file(out / file) for name, file in listed["weight_map"].items())


MASK = Mask(N_BLOCKS, (1, 4))
Exported = tuple[Model, Path, verify.Expected]


@pytest.fixture
def exported(tmp_path: Path) -> Exported:
    """Settings, an export, and its required output."""
    request = wanted(saved("qwen3", tmp_path)[1], MASK, verify=False)
    export(request)
    model = verify.load_rounded(request.model, lambda _, dtype: dtype)
    return request.model, request.out, verify.expected(model, MASK)


@pytest.fixture(params=[True, False], ids=["streamed", "whole"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the blocks of compared models stay in their files."""
    if not request.param:
        monkeypatch.setattr(verify, "streamed_options", lambda *_: None)
        monkeypatch.setattr(streaming, "streamed_options", lambda *_: None)
    return bool(request.param)


def test_an_export_passes(exported: Exported, way: bool) -> None:
    settings, folder, goal = exported
    proof = verify.compare_export(folder, goal, settings)
    assert all(part in proof for part in ("logits", " 64 tokens", EQUAL, f" {verify.NEW_TOKENS} tokens"))
    record = json.loads((folder / "depth_pruning.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    assert record["sizes"]["bytes"] == sum(tensor.nbytes for tensor in tensors.values())
    assert record["mask"] == MASK.to_json()


def other_value(name: str) -> Callable[[dict[str, torch.Tensor]], None]:
    """A change of one value of a tensor; in the embedding, of the last compared token's."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        row = int(verify._ids(build("qwen3"))[0, -1]) if "embed" in name else 0
        tensors[name][row, 0] += 0.1

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_value("model.layers.3.mlp.down_proj.weight"), r"its logits differ .* by \d.*\d+%"),
        (other_value("model.embed_tokens.weight"), r"its logits differ .* by \d.*\d+%"),
        (other_value("lm_head.weight"), r"its logits differ .* by \d.*\d+%"),
        (lambda tensors: tensors.pop("model.layers.2.mlp.up_proj.weight"), r"model.layers.2.mlp.up_proj"),
        (lambda tensors: tensors.pop("model.norm.weight"), r"model.norm.weight"),
    ],
    ids=["block", "embedding", "head", "no block weight", "no norm"],
)
def test_changed_and_missing_weights_are_found(
    exported: Exported, way: bool, change: Callable[[Any], Any], message: str
) -> None:
    settings, folder, goal = exported
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MismatchError, match=message):
        verify.compare_export(folder, goal, settings)


def in_memory(model: Any) -> list[int]:
    """The numbers of the blocks with a weight in memory."""
    return [
        number
        for number, block in enumerate(model.model.layers)
        if any(weight.device.type != "meta" for weight in block.parameters())
    ]


def test_a_proof_holds_one_block_at_a_time(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, folder, goal = exported
    held, compared = set[tuple[int, ...]](), verify._compared

    def watched(model: Any, wanted: verify.Expected) -> str:
        for block in model.model.layers:
            block.mlp.register_forward_hook(lambda *_: held.add(tuple(in_memory(model))))
        assert in_memory(model) == []
        return compared(model, wanted)

    monkeypatch.setattr(verify, "_compared", watched)
    verify.compare_export(folder, goal, settings)
    assert held == {(number,) for number in range(N_BLOCKS - len(MASK.dropped))}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_masked_model_is_streamed_with_rounded_weights(tmp_path: Path, dtype: str) -> None:
    settings = wanted(saved("qwen3", tmp_path)[1], MASK, dtype=dtype).model
    rounding = lambda *_: getattr(torch, dtype)  # noqa: E731
    streamed, whole = (verify.load_rounded(settings, rounding, stream) for stream in (True, False))
    assert in_memory(streamed) == []
    assert len(in_memory(whole)) == N_BLOCKS
    goals = [verify.expected(model, MASK) for model in (streamed, whole)]
    assert torch.equal(goals[0].logits, goals[1].logits)
    assert in_memory(streamed) == []


def test_a_proof_needs_no_free_memory_for_a_whole_model(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, folder, goal = exported
    monkeypatch.setattr("psutil.virtual_memory", lambda: types.SimpleNamespace(available=1000))
    assert EQUAL in verify.compare_export(folder, goal, settings)


def test_a_cache_that_changes_the_answer_is_found(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, folder, goal = exported
    generate = verify._generate
    monkeypatch.setattr(
        verify, "_generate", lambda model, ids, cached: generate(model, ids[:, int(cached) :], cached)
    )
    with pytest.raises(MismatchError, match=r"token \d .*\d+ .*cache .*\d+"):
        verify.compare_export(folder, goal, settings)


def test_weights_are_compared_as_they_are_written(tmp_path: Path) -> None:
    settings = wanted(saved("qwen3", tmp_path)[1], MASK, dtype="bfloat16").model
    state = verify.load_rounded(settings, lambda *_: torch.bfloat16).state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert all(torch.equal(tensor, tensor.bfloat16().float()) for tensor in state.values())


@pytest.mark.parametrize(("window", "context", "length"), [(100, 8192, 108), (100, 50, 50), (4096, 8192, 64)])
def test_ids_are_longer_than_a_sliding_window(window: int, context: int, length: int) -> None:
    model = build("mistral")
    model.config.sliding_window, model.config.max_position_embeddings = window, context
    assert verify._ids(model).shape == (1, length)
