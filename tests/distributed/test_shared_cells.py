"""Cells on two ranks give the results, and write the files, that one process does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from pruning.core import storage
from pruning.engine import collectives
from pruning.launcher.job import Job
from pruning.runs import run_cell
from pruning.search.driver import Problem
from tests.helpers.jobs import job, journal, result, small_batches
from tests.helpers.processes import meet, started

TEXT = ("perplexity", "divergence", "uncertainty", "block_influence")
CELLS: dict[str, tuple[str, ...]] = {
    **{name: (f"objective={name}", "algo=greedy", "k=2", "calibration.length=24") for name in TEXT},
    "mutual_information": ("objective=mutual_information", "algo=one_shot", "k=2", "calibration.length=24"),
    "taylor": ("objective=taylor", "algo=one_shot", "k=2", "calibration.length=24"),
    "margin": ("objective=margin", "algo=greedy", "k=2"),
    "accuracy": ("objective=accuracy", "algo=beam", "algo.width=2", "k=2"),
    "weighted": ("objective=weighted", "algo=one_shot", "k=2", "calibration.samples="),
    "gates": ("objective=margin", "algo=cbo_hessian", "k=2", "seed=1"),
    "racing": ("objective=perplexity", "calibration.length=24", "calibration.samples=12", "algo=greedy", "k=3",
               "racing.delta=0.5"),
    "compensation": ("objective=perplexity", "calibration.length=24", "algo=greedy", "k=2",
                     "compensation=magnitude"),
    "sublayers": ("unit=sublayer", "ratio=0.34", "calibration.length=24", "algo=greedy", "compensation=magnitude"),
    "repair": ("objective=perplexity", "calibration.length=24", "calibration.samples=8", "algo=greedy", "k=2",
               "compensation=linear"),
}  # fmt: skip
FEW = ("divergence", "margin", "racing", "sublayers", "repair")  # the others are for `make test-slow`
PARTS = {"few": FEW, "others": tuple(name for name in CELLS if name not in FEW)}
CASES = [
    pytest.param(part, name, marks=() if part == "few" else pytest.mark.slow)
    for part, names in PARTS.items()
    for name in names
]


def with_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each cell rule masks out by bounds, as in a command of one cell."""
    monkeypatch.setattr(
        run_cell, "Problem", lambda *given, **rest: Problem(*given, **rest | {"bounds": True})
    )


def worker(rank: int, size: int, port: int, jobs: list[Job]) -> None:
    meet(rank, size, port)
    small_batches(monkeypatch := pytest.MonkeyPatch())
    with_bounds(monkeypatch)
    writes: list[str] = []
    for name in ("write_text", "append_line"):
        write = getattr(storage, name)
        setattr(storage, name, partial(_recording, writes, write))
    with collectives.joined_ranks():
        assert collectives.world_size() == 2
        for run in jobs:
            run()
    assert bool(writes) == (rank == 0), writes


def _recording(writes: list[str], write: Callable[[Path, Any], None], path: Path, content: Any) -> None:
    writes.append(str(path))
    write(path, content)


Both = tuple[Path, Path, dict[str, str]]


@pytest.fixture(scope="module")
def run_part(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Both]]:
    """Runs the cells of one of PARTS once: returns the results folders of one process and two ranks, and the keys."""
    root = tmp_path_factory.mktemp("ranks")
    yield cache(lambda part: _run_part(part, model_folder, root / part))
    shutil.rmtree(root)


def _run_part(part: str, model_folder: Path, folder: Path) -> Both:
    here = Path.cwd()
    for name in ("one", "two"):
        (folder / name).mkdir(parents=True)
    cells = {name: CELLS[name] for name in PARTS[part]}
    many = {name: job(model_folder, folder / "two" / "results", *words) for name, words in cells.items()}
    started(worker, 2, list(many.values()))
    with pytest.MonkeyPatch.context() as monkeypatch:
        small_batches(monkeypatch)
        with_bounds(monkeypatch)
        for words in cells.values():
            job(model_folder, folder / "one" / "results", *words)()
    os.chdir(here)
    return folder / "one" / "results", folder / "two" / "results", {name: j.key for name, j in many.items()}


@pytest.mark.parametrize(("part", "name"), CASES)
def test_two_ranks_give_the_losses_the_mask_and_the_measurements_of_one_process(
    run_part: Callable[[str], Both], part: str, name: str
) -> None:
    one, two, keys = run_part(part)
    near = {"rel": 1e-9, "abs": 1e-12}
    expected, lines = (journal(results, keys[name]) for results in (one, two))
    assert [line["dropped"] for line in lines] == [line["dropped"] for line in expected]
    for a, b in zip(lines, expected, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], **near)
        assert a["samples"] == pytest.approx(b["samples"], **near)
    expected, actual = (result(results, keys[name]) for results in (one, two))
    assert actual["mask"] == expected["mask"]
    for number in ("loss", "dense_loss", "standard_error"):
        assert actual["calibration"][number] == pytest.approx(expected["calibration"][number], **near)
    for which in ("dense", "pruned", "uncompensated"):
        found, wanted = (one["evaluation"].get(which, {}) for one in (actual, expected))
        assert found == pytest.approx(wanted, rel=1e-6)
    for cost in (
        "evaluations_asked",
        "evaluations_paid",
        "block_forwards",
        "block_forwards_alone",
        "block_tokens",
    ):
        assert actual["search"][cost] == pytest.approx(expected["search"][cost], abs=0.01), cost
    assert actual.get("compensation") == expected.get("compensation")
    runs = [each.get("repair", {"runs": []})["runs"] for each in (actual, expected)]
    for a, b in zip(*runs, strict=True):
        numbers = {name: value for name, value in b.items() if name.startswith(("error_", "loss_"))}
        assert a == b | {name: pytest.approx(value, rel=1e-6) for name, value in numbers.items()}
