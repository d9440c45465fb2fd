"""The states of masks: repaired cells join the masks before their repair, and healed ones have rows of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.data.load import done, load, measured
from analysis.data.study import by_state
from tests.helpers.analysis_grid import ONE, write

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
    assert list(found["state"]) == [
        *["pruned"] * 2,
        *["repaired (linear)"] * 2,
        "healed on 512 tokens",
        "repaired (linear), healed on 512 tokens",
        "healed on 20,000 tokens",
    ]
    assert set(found["model"]) == {"smollm2"}
    assert list(found["ppl"]) == [PRUNED] * 4 + [HEALED] * 3
    assert found["acc"].tail(3).tolist() == [50.0] * 3


def test_healings_with_the_most_frequent_settings_count(tmp_path: Path) -> None:
    found = states(tmp_path, healed(512), healed(512, seed=1), healed(512, lr=0.01))
    assert (found["state"] == "healed on 512 tokens").sum() == 2
    assert (found["state"] == "pruned").sum() == 3


@pytest.mark.parametrize("changed", [False, True])
def test_the_healing_of_another_mask_is_no_state_of_this_one(changed: bool, tmp_path: Path) -> None:
    selected = healed(512)
    selected["heal"]["selection"] = {"changed": changed}
    assert list(states(tmp_path, selected)["state"]) == ["pruned", *["healed on 512 tokens"] * (not changed)]


def test_a_healing_without_a_measurement_has_no_mean(tmp_path: Path) -> None:
    found = states(tmp_path, healed(512) | {"evaluation": {}})
    assert found["ppl"].isna().tolist() == [False, True]
