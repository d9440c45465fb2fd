"""From configurations to cells: recorded forms of any age give the same cell, and what is recorded names classes."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf

from pruning.config import groups
from pruning.config.app import build, composed
from pruning.config.compose import cell_of, recorded_cell
from pruning.core.errors import InputError
from pruning.core.records import CLASS, OPTION, TARGET, recorded
from pruning.launcher.local import InProcess, LocalPool
from pruning.launcher.slurm import Slurm
from pruning.runs.cell import Cell

NAMES = {"objective": "perplexity", "calibration": "pydoc", "algo": "beam"}
# As results of before the move hold them.
OLD = {
    "model": "pruning.models.Model",
    "objective": "pruning.objective.perplexity.Perplexity",
    "calibration": "pruning.calibration.text.Text",
    "algo": "pruning.algo.beam.Beam",
    "compensation": "pruning.compensation.Nothing",
    "eval": "pruning.evaluation.heldout.Heldout",
    "tracker": "pruning.track.Nothing",
}


@pytest.fixture(scope="module")
def cell() -> Cell:
    return cell_of(composed(["algo=beam", "k=2", "tracker=none"]), {**NAMES, "model": "smollm2"})


def old_form(config: Any) -> dict[str, Any]:
    """A recorded configuration as older versions wrote it."""
    old = dict(config)
    for group, target in OLD.items():
        settings = {key: value for key, value in config[group].items() if key not in (CLASS, OPTION)}
        old[group] = {TARGET: target, **settings}
    return old


def test_a_record_names_options_and_classes_only(cell: Cell) -> None:
    text = OmegaConf.to_yaml(OmegaConf.create(dict(cell.config)))
    assert TARGET not in text
    assert "pruning." not in text
    assert cell.config["algo"][CLASS] == "Beam"
    assert cell.config["model"][OPTION] == "smollm2"
    assert "launcher" not in cell.config
    assert "resources" not in cell.config["model"]


def test_both_forms_of_a_record_give_the_same_cell(cell: Cell) -> None:
    again, old = (recorded_cell(config, NAMES) for config in (cell.config, old_form(cell.config)))
    assert again.key == old.key == cell.key
    assert again.config == cell.config, "a job's cell records the names of all options, too"
    assert (again.algo, again.evaluation, again.tracker) == (cell.algo, cell.evaluation, cell.tracker)
    assert (old.algo, old.evaluation, old.tracker) == (cell.algo, cell.evaluation, cell.tracker)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({TARGET: "pruning.launcher.processes.Processes", "parallel": 1}, LocalPool),
        ({TARGET: "pruning.launcher.local.Local"}, InProcess),
        ({TARGET: "pruning.launcher.slurm.Slurm", "partition": "gpu"}, Slurm),
        ({CLASS: "LocalPool", "parallel": 1}, LocalPool),
    ],
)
def test_launchers_of_any_age_are_built(settings: dict[str, Any], kind: type) -> None:
    assert isinstance(build("launcher", settings), kind)


def test_classes_within_classes_are_built() -> None:
    config = composed(["calibration=mixed", "calibration.first.source=pydoc"]).calibration
    settings = recorded(OmegaConf.to_container(config, resolve=True))
    made = build("calibration", settings)
    assert type(made).__name__ == settings[CLASS] == "Mixed"
    assert type(made.first).__name__ == settings["first"][CLASS]
    assert made.first.source == "pydoc"
    with pytest.raises(InputError, match=r"algo 'Greedi'.*Greedy"):
        build("algo", {CLASS: "Greedi"})


def test_a_calibration_that_the_objective_cannot_read_is_refused() -> None:
    config = composed(["objective=margin", "calibration=pydoc"])
    with pytest.raises(InputError, match=r"objective=margin .*calibration=pydoc .*: commonsense"):
        cell_of(config, {"objective": "margin", "calibration": "pydoc", "algo": "greedy"})


def test_every_option_has_a_class() -> None:
    for group in groups.BUILT:
        with_schema = [
            one
            for one in groups.options(group)
            if f"/schema/{group}/" in (groups.CONF / group / f"{one}.yaml").read_text()
        ]
        assert list(groups.option_classes(group)) == with_schema, group
