"""Several processes with the samples dealt out find what one process finds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from pruning.algo.greedy import Greedy
from pruning.calibration.samples import Samples
from pruning.forward import Forward
from pruning.mask import Space
from pruning.objective import Calibrated
from pruning.objective.perplexity import Perplexity
from pruning.scores import Journal, Store
from pruning.solve import solve
from tests.architectures import N_BLOCKS, build
from tests.rows import language_model, text_rows


def search(folder: Path) -> None:
    """One greedy search on the calling rank; the first rank writes the journal."""
    torch.set_num_threads(1)
    samples = Samples("text", "test", text_rows(9), 0)
    forward = Forward(language_model(build("llama")), batch_tokens=30)
    losses = Calibrated(Perplexity(), forward, samples)
    folder.mkdir(exist_ok=True)
    journal, store = Journal.open(folder / "trace.jsonl", N_BLOCKS), Store(folder, "key", "cell", N_BLOCKS)
    solution = solve(Greedy(), Space(N_BLOCKS, 3), losses, journal, store, 0, lambda *_: None)
    rank = dist.get_rank() if dist.is_initialized() else 0
    (folder / f"mask{rank}.json").write_text(json.dumps(solution.score.mask.dropped))


def worker(rank: int, size: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}.meeting", rank=rank, world_size=size)
    search(folder)
    dist.destroy_process_group()


def journal(folder: Path) -> dict[tuple[int, ...], float]:
    lines = [json.loads(line) for line in (folder / "trace.jsonl").read_text().splitlines()]
    assert len({tuple(line["dropped"]) for line in lines}) == len(lines), "two ranks wrote one journal"
    return {tuple(line["dropped"]): line["loss"] for line in lines}


@pytest.mark.parametrize("size", [2, 3])
def test_any_number_of_ranks_gives_the_losses_and_masks_of_one(tmp_path: Path, size: int) -> None:
    search(tmp_path / "one")
    mp.spawn(worker, (size, tmp_path / "many"), nprocs=size)  # type: ignore[no-untyped-call]
    masks = {(tmp_path / "many" / f"mask{rank}.json").read_text() for rank in range(size)}
    assert masks == {(tmp_path / "one" / "mask0.json").read_text()}
    one, many = journal(tmp_path / "one"), journal(tmp_path / "many")
    assert many.keys() == one.keys()
    assert list(many.values()) == pytest.approx([one[mask] for mask in many], rel=1e-9)
