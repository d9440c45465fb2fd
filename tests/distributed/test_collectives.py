"""Several ranks that share the samples give the results of one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist

from pruning.algo.greedy import Greedy
from pruning.calibration.samples import Samples
from pruning.core.mask import Space
from pruning.engine import collectives
from pruning.engine.forward import Forward
from pruning.objective import Calibrated, Objective
from pruning.objective.margin import Margin
from pruning.objective.perplexity import Perplexity
from pruning.search.decide import Racing
from pruning.search.driver import Problem, solve
from pruning.search.journal import Journal, Store
from tests.helpers.architectures import N_BLOCKS, build
from tests.helpers.processes import meet, started
from tests.helpers.rows import item_rows, language_model, text_rows

OBJECTIVES: dict[str, tuple[Objective, Samples]] = {
    "perplexity": (Perplexity(), Samples("text", "test", text_rows(9), 0)),
    "margin": (Margin(), Samples("items", "test", item_rows(9), 0)),
}


def search(folder: Path, kind: type[Forward] = Forward) -> None:
    """One greedy search for each objective on the calling rank; the first rank writes the journals."""
    for name, (objective, samples) in OBJECTIVES.items():
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        forward = kind(language_model(build("llama")), batch_tokens=30)
        own = Journal.open(place / "trace.jsonl", N_BLOCKS)
        own.others = Store(place, "key", "cell", N_BLOCKS)
        problem = Problem(Greedy(), Space(N_BLOCKS, 3), 0, Racing())
        solution = solve(problem, Calibrated(objective, forward, samples), own, lambda *_: None)
        dropped = json.dumps(solution.score.mask.dropped)
        (place / f"mask{collectives.rank()}.json").write_text(dropped)


class Starved(Forward):
    """A forward pass that runs out of memory once, on rank 1 only."""

    def read(self, *work: Any, **named: Any) -> Any:
        if collectives._world()[0] == 1 and not hasattr(self, "starved"):
            self.starved = True
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return super().read(*work, **named)


def exchange(rank: int, size: int, port: int, folder: Path) -> None:
    """Use every collective operation; at the end, rank 1 fails. Writes what each operation gave."""
    meet(rank, size, port)
    record: dict[str, Any] = {}
    try:
        with collectives.joined_ranks(), collectives.joined_ranks():
            record["share"] = list(collectives.share_of("abcde"))
            record["joined"] = collectives.gather(
                [letter.upper() for letter in collectives.share_of("abcde")]
            )
            record["first"] = collectives.on_first(lambda: f"from rank {rank}")
            record["largest"] = collectives.all_max(rank + 0.5)
            record["total"] = collectives.all_sum(np.array([1.0, rank])).tolist()
            try:
                collectives.on_first(lambda: int("no number"))
            except ValueError as error:
                record["raised"] = str(error)
            search(folder / "many")
            search(folder / "starved", Starved)
            if rank == 1:
                raise OSError("the disk of node2 is full")
            collectives.all_sum(np.zeros(3))
    except Exception as error:
        record["ended"] = f"{type(error).__name__}: {error}"
    record["left"] = not dist.is_initialized()
    (folder / f"record{rank}.json").write_text(json.dumps(record))


def journal(folder: Path) -> dict[tuple[int, ...], float]:
    lines = [json.loads(line) for line in (folder / "trace.jsonl").read_text().splitlines()]
    assert len({tuple(line["dropped"]) for line in lines}) == len(lines), "two ranks wrote one journal"
    return {tuple(line["dropped"]): line["loss"] for line in lines}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records and results of three ranks, and the results of one process."""
    folder = tmp_path_factory.mktemp("ranks")
    started(exchange, 3, folder)
    search(folder / "one")
    return folder


# If memory runs out, the engine goes on with smaller batches, whose products are rounded differently.
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("name", "tolerance"), [("many", 1e-9), ("starved", 1e-6)])
def test_any_number_of_ranks_gives_the_losses_and_masks_of_one(
    folder: Path, name: str, tolerance: float, objective: str
) -> None:
    many, single = folder / name / objective, folder / "one" / objective
    masks = {(many / f"mask{rank}.json").read_text() for rank in range(3)}
    assert masks == {(single / "mask0.json").read_text()}
    expected, losses = journal(single), journal(many)
    assert len(expected) == 1 + 6 + 5 + 4, "the dense model and each round of greedy"
    assert losses.keys() == expected.keys()
    assert list(losses.values()) == pytest.approx([expected[mask] for mask in losses], rel=tolerance)


def test_ranks_share_tasks_agree_and_report_each_others_failures(folder: Path) -> None:
    records = [json.loads((folder / f"record{rank}.json").read_text()) for rank in range(3)]
    assert [record.pop("share") for record in records] == [list("ad"), list("be"), list("c")]
    ended = [record.pop("ended") for record in records]
    assert ended[1] == "OSError: the disk of node2 is full"
    assert all(other.startswith("RankError: ") for other in (ended[0], ended[2]))
    assert records[0] == records[1] == records[2]
    assert records[0] == {"joined": list("ABCDE"), "first": "from rank 0", "largest": 2.5, "total": [3.0, 3.0],
                          "raised": "invalid literal for int() with base 10: 'no number'", "left": True}  # fmt: skip


def test_a_process_alone_is_the_only_rank() -> None:
    with collectives.joined_ranks():
        assert collectives.world_size() == 1
        assert collectives.is_first()
        assert collectives.share_of([1, 2]) == collectives.gather([1, 2]) == [1, 2]
        assert collectives.on_first(lambda: 7) == collectives.broadcast(7) == collectives.all_max(7) == 7
