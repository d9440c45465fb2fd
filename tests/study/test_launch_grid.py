"""Grids: every search on every objective, searches out of reach, compensation, margins."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate

from pruning.config.app import register
from pruning.config.groups import CONF, options
from pruning.core.mask import Space
from pruning.core.storage import read_json
from pruning.engine.forward import Forward
from pruning.objective import Calibrated
from pruning.search.decide import Racing
from pruning.search.driver import Problem, solve
from pruning.search.journal import Journal, Store, claim
from tests.conftest import Command
from tests.helpers.architectures import N_BLOCKS
from tests.helpers.objectives import model, samples
from tests.helpers.rows import language_model


@pytest.fixture(scope="module")
def members() -> Iterator[dict[str, dict[str, Any]]]:
    """Every search and every objective, as their YAML files configure them."""
    GlobalHydra.instance().clear()
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield {
            group: {
                name: instantiate(compose("config", [f"{group}={name}"])[group]) for name in options(group)
            }
            for group in ("algo", "objective")
        }


@pytest.mark.parametrize("name", options("objective"))
def test_every_search_runs_on_every_objective(
    members: dict[str, dict[str, Any]], name: str, tmp_path: Path
) -> None:
    objective, space = members["objective"][name], Space(N_BLOCKS, 2, frozenset({0}))
    data = samples("text" if objective.needs == "any" else objective.needs, 4)
    for algo, search in members["algo"].items():
        losses = Calibrated(objective, Forward(language_model(model())), data)
        journal = Journal.open(tmp_path / algo / "trace.jsonl", N_BLOCKS)
        (tmp_path / algo).mkdir()
        journal.others = Store(tmp_path, "key", algo, N_BLOCKS)
        claim(tmp_path, "key", algo)
        solution = solve(Problem(search, space, 0, Racing()), losses, journal, lambda *_: None)
        assert len(solution.score.mask.dropped) == 2
        assert 0 not in solution.score.mask.dropped
        assert solution.why


def test_a_search_that_is_out_of_reach_is_left_out_of_a_grid(launch: Command) -> None:
    ended = launch("-m", "algo=exhaustive", "algo.limit=10,20", "k=3", "study=reach")
    assert ended.status == 0
    assert "1 of 2 cells " in ended.out
    assert "algo.limit=10" in ended.out
    assert ended.result()["search"]["evaluations_asked"] == 20
    cells = read_json(ended.results / "studies" / "reach.json")["cells"]
    assert cells == [ended.result()["cell"]], "the study does not count what was left out"


@pytest.mark.parametrize("within", [True, False])
def test_a_compensated_mask_is_measured_with_and_without(launch: Command, within: bool) -> None:
    plain = launch("k=2").result()
    ended = launch("k=2", "compensation=magnitude", f"compensation.search={within}")
    compensated = next(r for r in ended.all() if "compensation" in r)
    assert compensated["cell"] != plain["cell"]
    assert compensated["calibration"]["dense_loss"] == plain["calibration"]["dense_loss"]
    assert sorted(map(int, compensated["compensation"])) == compensated["mask"]["dropped"]
    evaluation = compensated["evaluation"]
    assert evaluation["pruned"] != evaluation["uncompensated"]
    if compensated["mask"] == plain["mask"]:
        assert evaluation["uncompensated"] == plain["evaluation"]["pruned"]
        assert (compensated["calibration"]["loss"] == plain["calibration"]["loss"]) is not within
    if not within:  # losses are shared with the cell that has no compensation
        assert (compensated["mask"], compensated["search"]["evaluations_paid"]) == (plain["mask"], 0)


def test_a_result_holds_the_margin_of_the_runner_up(launch: Command) -> None:
    ended = launch("k=2", "algo=exhaustive", "calibration.samples=8")
    margins, trace = ended.result()["margins"], Path(ended.results / ended.result()["cell"] / "trace.jsonl")
    scores = {tuple(s["dropped"]): s for s in map(json.loads, trace.read_text().splitlines())}
    ranked = sorted((s["loss"], d) for d, s in scores.items() if len(d) == 2)
    assert margins["compared"] == 14
    assert tuple(margins["runner_up"]["dropped"]) == ranked[1][1]
    assert margins["runner_up"]["difference"] == pytest.approx(ranked[1][0] - ranked[0][0])
    assert margins["tied"] == len(margins["ties"])


def test_a_budget_stops_a_search_and_is_checked(launch: Command) -> None:
    result = launch("k=3", "algo=beam", "max_evaluations=9").result()
    assert result["search"]["evaluations_asked"] == 9
    assert result["search"]["stopped"] == "max_evaluations=9 was reached"
    assert len(result["mask"]["dropped"]) == 3
