"""`heal.candidates`: the masks of a search are healed in rounds, and the one that heals best is healed in full."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pruning.core.mask import Mask
from pruning.healing.loop import heal
from pruning.runs import heal_cell
from pruning.runs.heal_cell import Trial, halve
from tests.conftest import Command

SEARCH = ("algo=greedy", "k=2")
SHORT = (
    *("heal=full", "heal.tokens=1024", "heal.length=32", "heal.batch_tokens=128", "heal.eval_every=4"),
    *("heal.heldout=4", "heal.checkpoint_every=1", "heal.lr=0.01", "heal.patience=0"),
)
ROUNDS = ("heal.candidates=4", "heal.round_tokens=256")
MASKS = [Mask(9, (i,)) for i in range(8)]


def test_the_better_half_stays_in_each_round_and_the_best_of_the_last_wins() -> None:
    # Mask 6 starts worst but one and falls fastest; mask 0 starts best and hardly falls.
    speed = [0.0, 0.1, 0.2, 0.1, 0.2, 0.3, 0.9, 0.4]
    asked: list[tuple[int, int, int]] = []

    def trial(mask: Mask, tokens: int, before: int) -> Trial:
        number = mask.dropped[0]
        asked.append((number, tokens, before))
        return Trial(mask, tokens, 3.0 + 0.1 * number - speed[number] * tokens / 100, tokens - before, 1.0)

    rounds = list(halve(MASKS, 100, trial))
    assert asked[:8] == [(i, 100, 0) for i in range(8)]
    assert asked[8:] == [(i, 200, 100) for i in (6, 0, 1, 2)] + [(i, 400, 200) for i in (6, 2)]
    assert [[mask.dropped[0] for mask in left] for _, left in rounds] == [[6, 0, 1, 2], [6, 2], [6]]
    assert sum(one.trained for trials, _ in rounds for one in trials) == 8 * 100 + 4 * 100 + 2 * 200


def test_of_equal_masks_the_search_s_choice_wins() -> None:
    rounds = list(halve(MASKS[:3], 10, lambda mask, tokens, _: Trial(mask, tokens, 3.0, 1, 0.0)))
    assert [len(trials) for trials, _ in rounds] == [3, 2]
    assert rounds[-1][1] == [MASKS[0]]


class KilledError(Exception):
    pass


def test_trials_are_plain_healings_and_a_killed_selection_continues(
    launch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = launch(*SEARCH, *SHORT).result()
    calls: list[tuple[Any, ...]] = []

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise KilledError
        return heal(*arguments)

    monkeypatch.setattr("pruning.healing.loop.heal", counted)
    launch(*SEARCH, *SHORT, *ROUNDS)  # the third candidate is killed
    ended = launch(*SEARCH, *SHORT, *ROUNDS)
    assert ended.status == 0, ended.err
    result = ended.result()
    assert result["mask"] == plain["mask"]
    selection = result["heal"]["selection"]
    first, second = selection["rounds"]
    assert [len(first), len(second)] == [4, 2]
    assert first[0]["dropped"] == plain["mask"]["dropped"], "the search's choice takes part"
    assert selection["losses"][1:] == sorted(selection["losses"][1:])
    # 3 calls until the kill, 2 for the rest of the first round, 2 for the second, and perhaps the whole healing.
    assert len(calls) in (7, 8)
    model, _, text, settings, *_ = calls[0]

    def alone(dropped: list[int], tokens: int) -> float:
        return heal(model, Mask(6, tuple(dropped)), text, replace(settings, tokens=tokens)).heldout_after

    for trial in (*first, *second):
        assert trial["heldout_loss"] == alone(trial["dropped"], trial["tokens"])
    assert {t["heldout_loss"] for t in second} != {t["heldout_loss"] for t in first}
    best = min(second, key=lambda trial: float(trial["heldout_loss"]))
    assert selection["mask"]["dropped"] == best["dropped"]
    assert selection["tokens"] == 4 * 256 + 2 * (512 - 128), "the second round continues after its first step"
    assert result["heal"]["curve"]["heldout_after"] == alone(best["dropped"], 1024)
    again = launch(*SEARCH, *SHORT, *ROUNDS)
    assert "every cell was done" in again.err
    assert again.result() == result
    cell, changed = ended.results / result["cell"], selection["changed"]
    assert (cell / result["heal"]["folder"] / "heal.json").exists()
    assert ("/mask-" in result["heal"]["folder"]) == changed
    assert len(list((cell / heal_cell.FOLDER).glob("mask-*"))) == int(changed), "others are removed"
    (trials,) = (cell / heal_cell.FOLDER).glob("trials-*.jsonl")
    assert len([json.loads(line) for line in trials.read_text().splitlines()]) == 6
    assert launch(*SEARCH, *SHORT).result() == plain, "one candidate is as before"


def test_another_mask_can_win_and_is_exported(launch: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def last_wins(masks: Any, tokens: int, trial: Any) -> Any:
        def turned(mask: Mask, budget: int, before: int) -> Any:
            return trial(mask, budget, before)._replace(heldout_loss=-float(masks.index(mask)))

        return halve(masks, tokens, turned)

    monkeypatch.setattr("pruning.runs.heal_cell.halve", last_wins)
    ended = launch(*SEARCH, *SHORT, *ROUNDS, "export=smaller")
    assert ended.status == 0, ended.err
    result = ended.result()
    selection = result["heal"]["selection"]
    assert selection["changed"]
    assert selection["mask"]["dropped"] == selection["rounds"][0][-1]["dropped"] != result["mask"]["dropped"]
    assert selection["mask"] == json.loads(Path("smaller/depth_pruning.json").read_text())["mask"]
    assert result["evaluation"]["healed"]["ppl/heldout"] > 0
    chosen = " ".join(Mask.from_json(selection["mask"]).names())
    assert f"(without {chosen})" in ended.out, "the table says which mask was healed"
    card = Path("smaller/README.md").read_text()
    own = " ".join(Mask.from_json(result["mask"]).names())
    for named in (f"own choice is {own}.", "trained 4 of", f"{selection['losses'][-1]:.4f}.", "| healed |"):
        assert named in card
    own_mask = launch(*SEARCH, *SHORT, "export=smaller")
    assert own_mask.status == 0, own_mask.err
    exported = json.loads(Path("smaller/depth_pruning.json").read_text())["mask"]
    assert exported["dropped"] == result["mask"]["dropped"], (
        "the export is of the same cell, so it is replaced"
    )
    longer = launch(*SEARCH, *SHORT, *ROUNDS, "heal.tokens=2048", "export=smaller")
    assert longer.status == 0, longer.err


def test_a_search_without_other_masks_and_a_compensation_are_refused(launch: Command) -> None:
    ended = launch("algo=one_shot", "k=2", *SHORT, *ROUNDS)
    assert ended.status != 0
    assert "heal.candidates=4" in ended.err
    assert "algo=one_shot" in ended.err
    ended = launch(*SEARCH, *SHORT, *ROUNDS, "compensation=magnitude")
    assert "compensation=none" in ended.err
    assert len(ended.all()) == 1, "refused before the search"
