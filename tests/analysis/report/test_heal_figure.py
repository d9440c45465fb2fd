"""The drawing of a healing shows its first and best held-out loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analysis.report.cells import facts, figure, healing
from pruning.core import records

POINTS: Any = [
    {"step": 0, "tokens": 0, "seconds": 0.0, "heldout_loss": 4.0},
    {"step": 1, "tokens": 100, "seconds": 1.0, "loss": 4.5, "lr": 1e-3},
    {"step": 2, "tokens": 200, "seconds": 2.0, "loss": 4.25, "lr": 1e-3, "heldout_loss": 3.5},
]


def test_a_line_of_held_out_losses_and_a_dot_per_step() -> None:
    drawn = healing(POINTS)
    assert "4.0000 before, 3.5000 at best, over 200 tokens" in drawn
    assert drawn.count("<circle") == 2
    top, bottom = 8.0, 88.0  # the highest loss of all and the lowest
    assert f'd="M8.0 {top + 0.5 * 80:.1f}L312.0 {bottom:.1f}"' in drawn
    assert healing([]) == ""


def test_it_is_read_from_the_folder_of_the_healing(tmp_path: Path) -> None:
    record: Any = {"folder": "healed/key"}
    assert figure(tmp_path, record) == ""
    records.write(tmp_path / "healed" / "key" / records.CURVE, POINTS)
    assert figure(tmp_path, record) == healing(POINTS)


def test_facts_name_cost_and_gain() -> None:
    heal = {"settings": {"class": "Lora"}, "tokens": 2048, "seconds": 3.2}
    record = {"heal": heal, "evaluation": {"healed": {"ppl/heldout": 20.5, "ppl/heldout/stderr": 1.0}}}
    assert list(facts(record)) == [("healing", "lora, 2,048 tokens in 3 s"), ("ppl/heldout healed", "20.5")]
    assert list(facts({"evaluation": {}})) == []
    selection = {
        "changed": True,
        "losses": [3.0, 3.1, 3.2],
        "rounds": [[], []],
        "tokens": 4096,
        "seconds": 7.0,
    }
    said = dict(facts({**record, "heal": {**heal, "selection": selection}}))["selection by healing"]
    assert said == "another mask than the search's, of 3 in 2 rounds: 4,096 tokens in 7 s"
