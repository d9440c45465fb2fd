"""The forecast of a cell counts what is not done; how it is trained and how large it is follows from the machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest
from hydra import initialize_config_dir

from pruning.algo.one_shot import OneShot
from pruning.calibration.samples import Row, Samples
from pruning.config import app, groups
from pruning.config.compose import recorded_cell
from pruning.core.errors import InputError
from pruning.healing.heal_settings import Full, Lora, NoHealing
from pruning.runs.cell import Cell, Prepared
from pruning.runs.forecast import Forecast, TrainingRates, decided
from pruning.study import guide
from tests.config.test_experiments import cell
from tests.conftest import Command, Ended
from tests.healing.test_healing_launch import SEARCH, SHORT
from tests.study.test_compress import QUICK


def parts(ended: Ended) -> set[str]:
    """The parts of the work that a forecast names."""
    assert ended.status == 0, ended.err
    told = re.search(r"takes +about .+ on .+: (.+)\n", ended.out)
    assert told, ended.out
    return {part.rsplit(" ", 2)[0] for part in told[1].split(", ")}


def test_the_training_counts_unless_it_is_the_one_that_is_done(
    launch: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guide, "SPEED", QUICK)
    heal = (*SEARCH, "heal=full", *SHORT)
    assert launch(*heal).status == 0
    done = launch(*heal, "guide=true")
    assert parts(done) == {"start", "speed", "export"}
    longer = launch(*heal, "heal.tokens=4096", "guide=true")
    assert parts(longer) == {"start", "healing", "evaluation", "export"}
    kept = re.search(r"disk  +.+, ([\d.]+) MB ", longer.out)
    assert kept, longer.out
    # Each of the two budgets has left its state; torch's file has some KB beside the tensors.
    sizes = [path.stat().st_size / 1e6 for path in tmp_path.rglob("trunk-*/*")]
    assert sizes == [pytest.approx(float(kept[1]), rel=0.2)] * 2


# -- what is decided ---------------------------------------------------------------------------------------------

BLOCKS = 1000  # bytes of all weights with their optimizer; adapters take a tenth


class Fake:
    """A machine with `free` bytes: a sample takes 10 s (one-shot: two), training 30 and one for 1,000 tokens."""

    used = 100

    def __init__(self, free: int) -> None:
        self.free = free

    def training(self, heal: Any) -> TrainingRates:
        return TrainingRates(0.001, 0.1, BLOCKS // 10 if heal.adapter else BLOCKS)

    def forecast(self, prepared: Any, training: Any, *_: object) -> Forecast:
        heal = prepared.cell.heal
        healing = 30.0 + heal.tokens * training.seconds if training is not None and heal.trains else 0.0
        each = 2.0 if prepared.cell.algo == OneShot() else 10.0
        return Forecast(
            {"search": each * prepared.samples.count, "evaluation": 60.0, "healing": healing}, 0, 0
        )


def decide(
    tmp_path: Path, free: int, minutes: float | None, *words: str
) -> tuple[Cell, TrainingRates | None, list[str]]:
    """What is decided for `experiment=compress`, with 64 samples and 300,000 tokens of training."""
    app.register()
    with initialize_config_dir(str(groups.CONF), version_base="1.3"):
        asked = cell("experiment=compress", f"paths.results={tmp_path}", *words)
    rows = tuple(Row((1, 2), (1, 2)) for _ in range(64))
    prepared: Any = Prepared(asked, Samples("text", "t", rows, 0), {}, None)
    machine: Any = Fake(free)
    return decided(prepared, machine, cast(Any, None), minutes)


@pytest.mark.parametrize(
    ("free", "words", "trained"),
    [
        (5000, (), (Full, 1024)),
        (1100, (), (Full, 768)),  # fewer tokens at once
        (900, (), (Lora, 1024)),
        (900, ("heal=none",), (NoHealing, None)),
    ],
)
def test_the_free_memory_decides_how_it_is_trained(
    free: int, words: tuple[str, ...], trained: tuple[Any, int | None], tmp_path: Path
) -> None:
    chosen, training, said = decide(tmp_path, free, None, *words)
    assert (type(chosen.heal), getattr(chosen.heal, "micro_tokens", None)) == trained
    assert (training is None) == (not chosen.heal.trains)
    assert (said == []) == (trained in ((Full, 1024), (NoHealing, None)))
    if chosen.heal.trains:
        assert chosen.config["heal"] == recorded_cell(chosen.config).config["heal"]


@pytest.mark.parametrize(
    ("free", "words", "named"),
    [
        (100, (), r"weights .*0\.0 MB .*adapters .*0\.0 MB .*heal=none"),
        (900, ("heal=full",), r"heal=full .*0\.0 MB .*heal=none"),
    ],
)
def test_a_training_that_fits_in_no_way_is_refused_with_the_numbers(
    free: int, words: tuple[str, ...], named: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=named):
        decide(tmp_path, free, None, *words)


@pytest.mark.parametrize(
    ("minutes", "windows", "samples", "tokens"),
    [
        (60.0, 32, 64, 300_000),  # 640 s of search, 60 s of evaluation, 330 s of training
        (14.0, 32, 32, 300_000),
        (8.0, 32, 16, 230_000 // 2048 * 2048),
        (3.6, 16, 8, 76_000 // 2048 * 2048),
    ],
)
def test_search_training_and_evaluation_are_chosen_to_fit_the_minutes(
    minutes: float, windows: int, samples: int, tokens: int, tmp_path: Path
) -> None:
    chosen, _, said = decide(tmp_path, 5000, minutes)
    evaluation: Any = chosen.evaluation
    assert (chosen.calibration.samples, chosen.heal.tokens) == (samples, tokens)
    assert (evaluation.samples, evaluation.items) == (windows, 200 * windows // 32)
    assert len(said) == (windows < 32) + (samples < 64) + (tokens < 300_000)
    assert chosen.key == recorded_cell(chosen.config).key


def test_too_few_minutes_are_refused_with_the_least_number(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"minutes=0\.3 .*minutes=1 "):
        decide(tmp_path, 5000, 0.3)
    chosen, _, said = decide(tmp_path, 5000, 1.0)
    assert (chosen.algo, chosen.calibration.samples) == (OneShot(), 8)
    assert chosen.key == recorded_cell(chosen.config).key
    assert "one-shot" in " ".join(said)
    chosen, training, said = decide(tmp_path, 5000, 2.0)
    assert chosen.calibration.samples == 8
    assert (type(chosen.heal), training) == (NoHealing, None), (
        "a search that fits is not given up for training"
    )
    assert "minutes=3" in said[-1], "15 s of evaluation, 80 s of search, 30 + 16 s of training"
    assert decide(tmp_path, 5000, 3.0)[1] is not None


# -- the training after the search -------------------------------------------------------------------------------


def plan_of(tmp_path: Path, took: Path) -> guide.Plan:
    """A plan for 1,200 s: 60 of them start, 240 search, 200 evaluate five models, 60 export and 655 train."""
    app.register()
    with initialize_config_dir(str(groups.CONF), version_base="1.3"):
        words = ("heal.tokens=65536", "heal.lr=0.001")
        asked = cell("experiment=compress", f"paths.results={tmp_path}", *words)
    parts = {"start": 60.0, "search": 240.0, "evaluation": 200.0, "export": 60.0, "healing": 655.36}
    return guide.Plan(
        asked, took, Forecast(parts, 0, 0, measured=5), TrainingRates(0.01, 0.0, 0), 0.0, 5, True
    )


# The first 460 s are past, 100 s are needed later; the training takes 0.01 s for each token.
@pytest.mark.parametrize(
    ("minutes", "spent", "tokens"),
    [
        (21, 460.0, 65_536),  # as forecast: 700 s are left
        (20, 300.0, 65_536),  # faster, but no more tokens than were decided
        (20, 690.0, (1200 - 690 - 150) / 1.5 / 0.01),  # slower, and so is the rest
        (20, 575.0, (1200 - 575 - 125) / 1.25 / 0.01),
        (20, 1100.0, None),
    ],
)
def test_the_training_gets_the_time_that_the_search_left(
    tmp_path: Path, minutes: float, spent: float, tokens: float | None
) -> None:
    plan = plan_of(tmp_path, tmp_path / "plan.json")
    found = plan.replanned(minutes, spent)
    if tokens is None:
        assert isinstance(found.heal, NoHealing)
    else:
        step = found.heal.windows * found.heal.length
        assert found.heal.tokens == min(65_536, int(tokens) // step * step)
    assert plan.path.exists() == (found.config.get("heal") != plan.cell.config["heal"])
    untrained = plan.untrained()
    assert untrained is not None
    assert isinstance(untrained.heal, NoHealing)
    assert untrained.key == found.key == plan.cell.key


def test_downloads_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([100.0, 160.0, 190.0])
    monkeypatch.setattr("pruning.core.wheels.fetched", 5.0)
    watch = guide.Watch(lambda: next(times))
    assert watch.seconds() == 60.0
    monkeypatch.setattr("pruning.core.wheels.fetched", 25.0)
    assert watch.seconds() == 70.0
