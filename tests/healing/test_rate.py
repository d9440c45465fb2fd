"""The learning rate is chosen by short trials, and a training that does not help ends with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from pruning.core.errors import DamagedError, LossError
from pruning.core.records import Point
from pruning.healing import heal_settings, rate
from pruning.healing.loop import Healed, heal
from pruning.healing.rate import known, settled, with_rate
from pruning.study.guide import table
from tests.conftest import Command
from tests.healing.worlds import MASK, full, lora, text, tiny

RATES = (100.0, 3e-3, 1e-9)
AUTO = full(lr=None, tokens=64 * 20)
TEXT = text(AUTO)


@pytest.fixture(autouse=True)
def rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heal_settings, "WEIGHT_RATES", RATES)


def healed(one: Any, folder: Path | None, **more: Any) -> Healed:
    return heal(tiny(), MASK, text(one), one, folder, **more)


def trained(trial: Any, place: Path | None) -> list[Point]:
    return healed(trial, place).curve


def points(*losses: float) -> list[Point]:
    """A curve with these held-out losses; the first is the loss before training."""
    return [
        {"step": 4 * n, "tokens": n, "seconds": 0.0, "heldout_loss": loss} for n, loss in enumerate(losses)
    ]


class Curves:
    """Gives each rate a curve without training, and remembers the rates; raises the error of a rate that has one.

    What a huge rate does to a real loss depends on the processor: rate 100 has lowered it on some.
    """

    losses: ClassVar = {RATES[0]: (3.5, 3.6), RATES[1]: (3.5, 3.2), RATES[2]: (3.5, 3.5)}

    def __init__(self, **errors: BaseException) -> None:
        self.errors, self.tried = errors, list[float]()

    def __call__(self, trial: Any, _: Path | None) -> list[Point]:
        if (error := self.errors.get(f"{trial.lr:g}") or self.errors.get("all")) is not None:
            raise error
        self.tried.append(trial.lr)
        return points(*self.losses[trial.lr])


def test_the_best_rate_is_taken_and_its_trial_is_the_beginning_of_the_healing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = (1e-9, 3e-3, 1e-10)  # the outer rates hardly change a weight
    monkeypatch.setattr(heal_settings, "WEIGHT_RATES", rates)
    chosen, trials = with_rate(AUTO, TEXT, tmp_path, trained)
    assert (chosen.lr, chosen.tokens) == (3e-3, AUTO.tokens)
    assert [trial["lr"] for trial in trials] == list(rates)
    assert all(trial["tokens"] == 64 * heal_settings.TRIAL_STEPS for trial in trials)
    losses: list[Any] = [trial["heldout_loss"] for trial in trials]
    assert min(losses) == losses[1] < trials[1]["heldout_before"]
    assert [path.name for path in tmp_path.glob("trunk-*")] == [f"trunk-{chosen.line(TEXT.beginning)}"]
    seen: list[int] = []
    found = healed(chosen, tmp_path, watch=lambda point: seen.append(point["step"]))
    assert min(seen) > 1, "the healing begins anew"
    plain = healed(full(lr=3e-3, tokens=AUTO.tokens), None)
    assert all(torch.equal(found.tensors[name], plain.tensors[name]) for name in plain.tensors)


def test_a_training_that_does_not_help_ends_with_the_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heal_settings, "WEIGHT_RATES", (1e-30, 1e-31))  # too small to change a weight
    asked = full(lr=None, tokens=64 * 20, eval_every=99, candidates=2, round_tokens=64)
    chosen, _ = with_rate(asked, TEXT, tmp_path, trained)
    assert chosen.tokens == asked.trial_tokens < asked.tokens
    assert chosen.candidates == 1, "no candidates are healed"
    found = healed(chosen, tmp_path)
    assert found.best_step == 0
    summary = found.summary()
    assert summary["heldout_after"] == summary["heldout_before"]


def test_a_stopped_choice_repeats_no_trial(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        with_rate(AUTO, TEXT, tmp_path, Curves(**{"0.003": KeyboardInterrupt()}))
    curves = Curves()
    first = with_rate(AUTO, TEXT, tmp_path, curves)
    assert curves.tried == list(RATES[1:])
    assert with_rate(AUTO, TEXT, tmp_path, curves) == first
    assert curves.tried == list(RATES[1:]), "a finished choice is read"
    assert known(AUTO, TEXT, tmp_path) == first[1]
    assert known(lora(lr=None), TEXT, tmp_path) == [], "other settings have trials of their own"


def test_a_rate_that_diverges_is_never_taken() -> None:
    chosen, trials = with_rate(AUTO, TEXT, None, Curves(**{"100": LossError("nan")}))
    assert (chosen.lr, trials[0]["heldout_loss"]) == (3e-3, None)
    json.dumps(trials, allow_nan=False)
    with pytest.raises(LossError, match=r"100, 0\.003, 1e-09.*heal\.lr"):
        with_rate(AUTO, TEXT, None, Curves(all=LossError("nan")))


def test_a_trial_is_judged_as_a_healing_by_its_lowest_loss() -> None:
    losses = {RATES[0]: (3.5, 3.3, 3.6), RATES[1]: (3.5, 3.4, 3.4)}

    def made(trial: Any, _: Path | None) -> list[Point]:
        return points(*losses[trial.lr])

    chosen, trials = with_rate(AUTO, TEXT, None, made)
    assert [trial["heldout_loss"] for trial in trials] == [3.3, 3.4]
    assert (chosen.lr, chosen.tokens) == (RATES[0], AUTO.tokens)
    assert settled(AUTO, trials[:1]) is None, "a second rate has to be tried"


@pytest.mark.parametrize("line", ["no JSON", "[1]", '{"lr": 1, "tokens": 1, "seal": "0"}'])
def test_a_damaged_file_of_trials_is_named(line: str, tmp_path: Path) -> None:
    path = rate.trials_path(AUTO, TEXT, tmp_path)
    path.write_text(line + "\n")
    with pytest.raises(DamagedError, match=path.name):
        known(AUTO, TEXT, tmp_path)


def test_a_given_rate_is_not_tried() -> None:
    curves = Curves()
    assert with_rate(full(), TEXT, None, curves) == (full(), [])
    assert curves.tried == []


SEARCH = ("algo=one_shot", "k=2", "heal=full", "heal.length=32", "heal.batch_tokens=256", "heal.heldout=4")
SEARCH = (*SEARCH, "heal.tokens=4096", "heal.eval_every=4")


def test_a_launch_records_its_trials_and_is_done_the_second_time(
    launch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heal_settings, "WEIGHT_RATES", (3e-3, 1e-9, 1e-10))
    ended = launch(*SEARCH)
    assert ended.status == 0, ended.err
    record = ended.result()["heal"]
    assert record["settings"]["lr"] == 3e-3
    assert [trial["lr"] for trial in record["rates"]] == [3e-3, 1e-9]
    assert record["tokens"] == 4096
    assert ended.result()["config"]["heal"]["lr"] is None
    again = launch(*SEARCH)
    assert again.status == 0
    assert again.result() == ended.result()
    monkeypatch.setattr("pruning.healing.loop.heal", None)  # training again would fail
    more = launch(*SEARCH, "eval.samples=3")
    assert more.status == 0, more.err
    assert more.result()["heal"] == record


def test_screen_table_and_record_say_that_training_did_not_help(
    launch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heal_settings, "WEIGHT_RATES", (1e-30, 1e-31))  # too small to change a weight
    ended = launch(*SEARCH)
    assert ended.status == 0, ended.err
    result = ended.result()
    assert result["heal"]["best_step"] == 0
    assert result["heal"]["tokens"] == 256 * heal_settings.TRIAL_STEPS
    assert "heal=lora" in ended.err
    (row,) = [line for line in table(result).splitlines() if "healed" in line]
    assert "not help" in row
    assert "not help" in ended.out
