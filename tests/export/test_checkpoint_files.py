"""Cutting a checkpoint's files: names, shards and precision."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pruning.core.errors import InputError, UnskippableError
from pruning.core.mask import Mask
from pruning.export import checkpoint
from pruning.export.checkpoint import Checkpoint, TensorPlan, block_prefix, write_shards

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


def test_a_checkpoint_without_these_blocks_is_refused() -> None:
    with pytest.raises(UnskippableError, match=r"no names like model\.layers\.0\. number all of them"):
        block_prefix(names("model.layers", 3), "model.layers", 4)
    with pytest.raises(UnskippableError, match="several prefixes fit"):
        block_prefix([*names("a.layers"), *names("b.layers")], "c.layers", 4)


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
    tensors, out = Checkpoint(folder), tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(checkpoint, "LARGEST", f"{shard}KB")
    write_shards(tensors, plan(dtype), out)
    written: dict[str, Tensor] = {}
    for path in out.glob("*.safetensors"):
        assert (
            path.stat().st_mode & 0o044
            == folder.joinpath("model.safetensors.index.json").stat().st_mode & 0o044
        )
        part = load_file(path)
        assert sum(t.nbytes for t in part.values()) <= shard * KB
        written |= part
    assert len(written) == 52
    for old in tensors.shapes():
        if (new := plan().rename(old)) is not None:
            assert torch.equal(written[new], tensors.read(old).to(dtype))
    if shard == 8:
        index = json.loads((out / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == 52 * 1000 * dtype.itemsize
        files = {name: load_file(out / file) for name, file in index["weight_map"].items()}
        assert all(name in tensors for name, tensors in files.items())


def test_a_checkpoint_that_lacks_a_file_is_refused(folder: Path) -> None:
    (folder / "model-00002-of-00005.safetensors").unlink()
    with pytest.raises(InputError, match="1 of 5 weight files are missing, for example model-00002-of-00005"):
        Checkpoint(folder)
