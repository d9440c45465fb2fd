"""States of masks, and answers to items."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.data.load import done, load, measured
from analysis.data.study import answers, by_state
from tests.helpers.analysis_grid import ONE, write

# -- states: repaired cells join the masks before their repair, and healed ones have rows of their own -----------

LORA = {"class": "Lora", "lr": 0.001, "seed": 0}
DENSE, PRUNED, HEALED = 17.0, 40.0, 25.0


def states(results: Path, *changes: dict[str, Any]) -> pd.DataFrame:
    """The states of copies of one cell, each with changes of its result."""
    (key,) = write(results, ONE)
    plain = json.loads((results / key / "result.json").read_text())
    plain["evaluation"]["pruned"]["ppl/heldout"] = PRUNED
    for number, change in enumerate(changes):
        cell = f"{key[:-8]}{number:08x}"
        config = plain["config"] | {"compensation": change.get("compensation")}
        evaluation = plain["evaluation"] | change.get("evaluation", {})
        record = {name: value for name, value in change.items() if name == "heal"}
        result = plain | {"cell": cell, "config": config, "evaluation": evaluation} | record
        (results / cell).mkdir()
        (results / cell / "result.json").write_text(json.dumps(result))
    (results / key / "result.json").unlink()
    cells = done(load(results))
    return by_state(cells, measured(cells))


def healed(tokens: int, **more: Any) -> dict[str, Any]:
    record = {"settings": LORA | {"tokens": tokens} | more}
    return {"heal": record, "evaluation": {"healed": {"ppl/heldout": HEALED, "acc/heldout": 0.5}}}


def test_each_state_of_a_mask_is_a_row(tmp_path: Path) -> None:
    linear = {"compensation": {"class": "Linear"}}
    found = states(tmp_path, healed(20_000), healed(512), linear | healed(512), linear)
    repaired, few = "repaired (linear)", "healed on 512 tokens"
    expected = ["pruned", "pruned", repaired, repaired, few, f"{repaired}, {few}", "healed on 20,000 tokens"]
    assert list(found["state"]) == expected
    assert set(found["model"]) == {"smollm2"}
    assert list(found["ppl"]) == [PRUNED] * 4 + [HEALED] * 3
    assert found["acc"].tail(3).tolist() == [50.0] * 3


def test_healings_with_the_most_frequent_settings_count(tmp_path: Path) -> None:
    found = states(tmp_path, healed(512), healed(512, seed=1) | {"evaluation": {}}, healed(512, lr=0.01))
    assert list(found["state"]) == ["pruned"] * 3 + ["healed on 512 tokens"] * 2
    assert found["ppl"].isna().tolist() == [False] * 4 + [True], "one was not measured"


@pytest.mark.parametrize("changed", [False, True])
def test_the_healing_of_another_mask_is_no_state_of_this_one(changed: bool, tmp_path: Path) -> None:
    selected = healed(512)
    selected["heal"]["selection"] = {"changed": changed}
    assert list(states(tmp_path, selected)["state"]) == ["pruned", *["healed on 512 tokens"] * (not changed)]


# -- answers -----------------------------------------------------------------------------------------------------

TASK = "acc/heldout"


def answered(results: Path, name: str, right: list[float] | None, digest: str = "d") -> str:
    path = f"evaluation/acc-heldout-1/{name}.json"
    evaluation: dict[str, Any] = {"data": {TASK: digest}, "records": {TASK: {"pruned": path}}}
    if right is not None:
        kept = (results / path).with_name(f"{name}.terms.json")
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps({"hits": right}), encoding="utf-8")
    (results / name).mkdir()
    result = {"cell": name, "status": "done", "config": {}, "evaluation": evaluation}
    (results / name / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return name


def test_answers_are_in_the_order_of_the_cells(tmp_path: Path) -> None:
    names = [answered(tmp_path, "b", [1.0, 0.0]), answered(tmp_path, "a", [0.5, 1.0])]
    found, note = answers(tmp_path, names, [TASK])
    np.testing.assert_array_equal(found[TASK], [[1.0, 0.0], [0.5, 1.0]])
    assert note == ""


@pytest.mark.parametrize(
    ("second", "digest", "note"),
    [(None, "d", "not kept in 1 of 2 cells"), ([1.0, 0.0], "other", f"different items of {TASK}")],
)
def test_answers_that_are_lacking_or_to_other_items_are_refused(
    second: list[float] | None, digest: str, note: str, tmp_path: Path
) -> None:
    names = [answered(tmp_path, "a", [1.0, 0.0]), answered(tmp_path, "b", second, digest)]
    found, said = answers(tmp_path, names, [TASK])
    assert found == {}
    assert said.endswith(note)
