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
from tests.conftest import Command

SEARCH = ("algo=greedy", "k=2")
SHORT = (
    *("heal=full", "heal.tokens=1024", "heal.length=32", "heal.batch_tokens=128", "heal.eval_every=4"),
    *("heal.heldout=4", "heal.checkpoint_every=1", "heal.lr=0.01", "heal.patience=0"),
)
ROUNDS = ("heal.candidates=4", "heal.round_tokens=256")


class KilledError(Exception):
    pass


def _without_seconds(selection: Any) -> Any:
    rounds = [[{**trial, "seconds": 0} for trial in one] for one in selection["rounds"]]
    return {**selection, "rounds": rounds, "seconds": 0}


def test_trials_are_plain_healings_and_a_killed_selection_continues(
    launch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = launch(*SEARCH, *SHORT).result()
    calls: list[tuple[Any, ...]] = []

    def counted(*arguments: Any, **more: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise KilledError
        return heal(*arguments, **more)

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
    model, text, settings = calls[0][0], calls[0][2], calls[0][3]
    for trial in (*first, *second):
        alone = replace(settings, tokens=trial["tokens"])
        expected = heal(model, Mask(6, tuple(trial["dropped"])), text, alone).summary()["heldout_after"]
        assert trial["heldout_loss"] == expected
    assert {t["heldout_loss"] for t in second} != {t["heldout_loss"] for t in first}
    best = min(second, key=lambda trial: float(trial["heldout_loss"]))
    assert selection["mask"]["dropped"] == best["dropped"]
    assert selection["tokens"] == 4 * 256 + 2 * (512 - 128), "the second round continues after its first step"
    whole = heal(model, Mask(6, tuple(best["dropped"])), text, replace(settings, tokens=1024))
    assert result["heal"]["curve"]["heldout_after"] == whole.summary()["heldout_after"]
    again = launch(*SEARCH, *SHORT, *ROUNDS)
    assert "every cell was done" in again.err
    assert again.result() == result
    _check_files(ended.results / result["cell"], result)
    one = launch(*SEARCH, *SHORT).result()
    assert one == plain, "one candidate is as before"


def _check_files(cell: Path, result: Any) -> None:
    winner = result["heal"]["selection"]["changed"]
    assert (cell / result["heal"]["folder"] / "heal.json").exists()
    assert ("/mask-" in result["heal"]["folder"]) == winner
    assert len(list((cell / heal_cell.FOLDER).glob("mask-*"))) == int(winner), "others are removed"
    (trials,) = (cell / heal_cell.FOLDER).glob("trials-*.jsonl")
    assert len([json.loads(line) for line in trials.read_text().splitlines()]) == 6


def test_another_mask_can_win_and_is_exported(launch: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from pruning.runs.heal_cell import halve

    def last_wins(masks: Any, tokens: int, trial: Any, after: Any) -> Any:
        def turned(mask: Mask, budget: int, before: int) -> Any:
            return trial(mask, budget, before)._replace(heldout_loss=-float(masks.index(mask)))

        return halve(masks, tokens, turned, after)

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
    assert f"The search's own choice is {own}. Healing trained 4 of the best masks" in card
    assert f"Its loss in the search was {selection['losses'][-1]:.4f}." in card
    assert "| metric | dense | pruned as searched | healed |" in card
    assert "copies them untrained" in Path("smaller/mergekit.yaml").read_text()
    own_mask = launch(*SEARCH, *SHORT, "export=smaller")
    assert "smaller holds another export (of another mask)" in " ".join(own_mask.err.split())
    assert own_mask.result() == result, "refused before the training"
    longer = launch(*SEARCH, *SHORT, *ROUNDS, "heal.tokens=2048", "export=smaller")
    assert longer.status == 0, longer.err


def test_a_search_without_other_masks_and_a_compensation_are_refused(launch: Command) -> None:
    ended = launch("algo=one_shot", "k=2", *SHORT, *ROUNDS)
    assert ended.status != 0
    assert "algo=one_shot scored no other complete mask" in ended.err
    ended = launch(*SEARCH, *SHORT, *ROUNDS, "compensation=magnitude")
    assert "heal.candidates=4 cannot be used with a compensation" in ended.err
    assert len(ended.all()) == 1, "refused before the search"
