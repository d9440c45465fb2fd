"""From configurations to cells: recorded forms give the same cell, and what is recorded names classes."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from pruning.config.app import build, composed
from pruning.config.compose import cell_of, recorded_cell
from pruning.core.errors import InputError
from pruning.core.records import CLASS, OPTION, TARGET, recorded
from pruning.runs.cell import Cell

NAMES = {"objective": "perplexity", "calibration": "pydoc", "algo": "beam"}


@pytest.fixture(scope="module")
def cell() -> Cell:
    return cell_of(composed(["algo=beam", "k=2", "tracker=none"]), {**NAMES, "model": "smollm2"})


def test_a_record_names_options_and_classes_only(cell: Cell) -> None:
    text = OmegaConf.to_yaml(OmegaConf.create(dict(cell.config)))
    assert TARGET not in text
    assert "pruning." not in text
    assert cell.config["algo"][CLASS] == "Beam"
    assert cell.config["model"][OPTION] == "smollm2"
    assert "launcher" not in cell.config
    assert "resources" not in cell.config["model"]


def test_a_record_gives_the_same_cell(cell: Cell) -> None:
    again = recorded_cell(cell.config)
    assert (again.key, again.config) == (cell.key, cell.config), "with the names of all options"
    assert (again.algo, again.evaluation, again.command) == (cell.algo, cell.evaluation, cell.command)


def test_classes_within_classes_are_built() -> None:
    config = composed(["calibration=mixed", "calibration.first.source=pydoc"]).calibration
    settings = recorded(OmegaConf.to_container(config, resolve=True))
    made = build("calibration", settings)
    assert type(made).__name__ == settings[CLASS] == "Mixed"
    assert type(made.first).__name__ == settings["first"][CLASS]
    assert made.first.source == "pydoc"
    with pytest.raises(InputError, match=r"algo 'Greedi'.*Greedy"):
        build("algo", {CLASS: "Greedi"})
