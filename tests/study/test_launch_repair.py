"""Cells whose final mask is repaired by maps, from the words of `launch.py` to their files and exports."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pruning.core.mask import Mask
from pruning.export.request import of_cell
from pruning.models.output_maps import NAME, read_repair
from tests.conftest import Command
from tests.helpers.exports import EQUAL

WORDS = ("k=2", "compensation=linear", "calibration.samples=8")
pytestmark = pytest.mark.usefixtures("every_map_is_kept")


def repaired_cell(launch: Command, *words: str) -> tuple[Any, Any]:
    """The results of a plain cell, and of the same cell with a compensation."""
    plain, ended = launch("k=2", "calibration.samples=8"), launch(*WORDS, *words)
    assert (plain.status, ended.status) == (0, 0), plain.err + ended.err
    return next(r for r in ended.all() if "repair" not in r), ended


def only(ended: Any) -> Any:
    (found,) = [result for result in ended.all() if "repair" in result]
    return found


def test_the_final_mask_is_repaired_and_the_search_is_not_changed(launch: Command) -> None:
    plain, ended = repaired_cell(launch)
    result = only(ended)
    assert (result["mask"], result["calibration"]) == (plain["mask"], plain["calibration"])
    assert result["search"]["evaluations_paid"] == 0, "losses are shared with the plain cell"
    evaluation = result["evaluation"]
    assert evaluation["dense"] == plain["evaluation"]["dense"]
    assert evaluation["uncompensated"] == plain["evaluation"]["pruned"]
    assert evaluation["pruned"] != evaluation["uncompensated"]
    record = result["repair"]
    assert (record["form"], record["samples"], record["tokens"]) == ("linear", 8, 8 * 24)
    removed = [int(name[1:]) for run in record["runs"] for name in run["removed"]]
    assert removed == result["mask"]["dropped"]
    read_repair(ended.results / result["cell"], record["sha256"])


@pytest.mark.parametrize("words", [(), ("unit=sublayer", "k=3", "algo=one_shot")], ids=["blocks", "parts"])
def test_an_export_has_the_perplexity_of_the_repaired_cell(
    launch: Command, tmp_path: Path, words: tuple[str, ...]
) -> None:
    ended = launch(*WORDS, *words, f"export={tmp_path / 'out'}")
    assert ended.status == 0, ended.err
    assert EQUAL in ended.out
    result = only(ended)
    again = launch("k=1", f"model.path={tmp_path / 'out'}", "model.name=smaller", "algo=one_shot")
    dense = again.result("smaller")["evaluation"]["dense"]
    for name in ("ppl/heldout", "acc/heldout"):
        assert dense[name] == pytest.approx(result["evaluation"]["pruned"][name], rel=1e-5)
    assert dense["ppl/heldout"] != pytest.approx(
        result["evaluation"]["uncompensated"]["ppl/heldout"], rel=1e-3
    )


def test_other_evaluations_read_the_maps(launch: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    first = only(launch(*WORDS))

    def fail(*_: Any) -> None:
        raise AssertionError("the maps were measured again")

    with monkeypatch.context() as patch:
        patch.setattr("pruning.engine.repair.measure", fail)
        ended = launch(*WORDS, "eval.samples=3")
        assert ended.status == 0, ended.err
    later = only(ended)
    assert later["repair"] == first["repair"]
    shutil.rmtree(ended.results)
    fresh = only(launch(*WORDS, "eval.samples=3"))
    assert later["evaluation"]["pruned"]["ppl/heldout"] == fresh["evaluation"]["pruned"]["ppl/heldout"]


def test_weights_are_back_if_an_evaluation_fails(launch: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from pruning.evaluation.heldout import Heldout
    from pruning.models.handle import _loaded

    seen: list[dict[str, torch.Tensor]] = []
    plain = Heldout.measure

    def failing(self: Heldout, forward: Any, name: str, data: Any, mask: Mask) -> Any:
        seen.append({key: value.clone() for key, value in forward.model.module.state_dict().items()})
        if len(seen) == 5:  # after two metrics of the dense and of the pruned model
            raise RuntimeError("the evaluation fails")
        return plain(self, forward, name, data, mask)

    monkeypatch.setattr(Heldout, "measure", failing)
    assert launch(*WORDS).status != 0
    ((_, model),) = _loaded
    dense, repaired = seen[0], seen[-1]
    now = model.module.state_dict()
    assert all(torch.equal(now[name], value) for name, value in dense.items())
    assert any(not torch.equal(now[name], value) for name, value in repaired.items())


def test_lost_maps_are_reported(launch: Command) -> None:
    result = only(ended := launch(*WORDS))
    folder = ended.results / result["cell"]
    (folder / NAME).unlink()
    again = launch(*WORDS, "eval.samples=3")
    assert again.status != 0
    assert f"DamagedError: {folder / NAME} " in again.err + again.out
    assert json.loads((folder / "result.json").read_text())["repair"] == result["repair"]
    with pytest.raises(Exception, match=NAME):
        of_cell(folder, folder.parent / "out")


def test_a_cell_whose_maps_all_harm_is_a_pruned_cell(
    launch: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evaluation, the export, its card and a second evaluation know no repair."""
    monkeypatch.setattr("pruning.engine.repair._Judge._losses", lambda _, maps: {"text": float(len(maps))})
    plain, ended = repaired_cell(launch, f"export={tmp_path / 'out'}")
    result = only(ended)
    assert [run["folded"] for run in result["repair"]["runs"]] == [None] * len(result["repair"]["runs"])
    assert f" for {' '.join(result['repair']['runs'][0]['removed'])}: " in ended.err
    assert "uncompensated" not in result["evaluation"]
    assert result["evaluation"]["pruned"] == plain["evaluation"]["pruned"]
    assert not (ended.results / result["cell"] / NAME).exists()
    assert "repaired" not in ended.out.partition("exported")[0]
    assert "linear maps" in (tmp_path / "out" / "README.md").read_text()
    again = launch(*WORDS, "eval.samples=3")
    assert again.status == 0, again.err
