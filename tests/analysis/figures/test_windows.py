"""Figures 9 and 10 compare masks by their losses on the same windows: sub-layers, repaired and healed masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis.data.archive import NothingToRead, folder, pack
from analysis.data.load import Metric, choose, load
from analysis.figures import fig9_units, fig10_healing
from analysis.figures.fig9_units import compared
from analysis.figures.fig10_healing import healed, summary, table
from analysis.stats.healed import PRUNED, REPAIRED, HealedMask, State, healed_masks
from analysis.stats.same_samples import paired, window_losses
from pruning.core.mask import Mask
from pruning.core.records import read_done
from tests.conftest import Command

METRIC = "ppl/heldout"
HELDOUT = Metric("ppl", (METRIC,))


def test_a_pair_is_compared_on_the_same_windows_and_with_the_same_repair(launch: Command) -> None:
    words = ("unit=block,sublayer", "ratio=0.34", "eval.samples=4", "study=units", "compensation=none,linear")
    ended = launch("-m", *words)
    assert ended.status == 0, ended.err
    frame = load(ended.results, "units")
    rows = compared(ended.results, frame, choose(frame, "ppl")).set_index("compensation")
    assert sorted(rows.index) == ["linear", "none"]
    for how, row in rows.iterrows():
        cells = frame[frame["compensation"] == how].set_index("unit")["cell"]
        first, second = (
            window_losses(ended.results, read_done(ended.results / cells[unit]), [METRIC])
            for unit in ("sublayer", "block")
        )
        assert first is not None
        assert second is not None
        expected = paired(first, second)
        assert (row["difference"], row["low"], row["high"]) == (expected.mean, expected.low, expected.high)
        assert row["windows"] == 4
        assert row["ppl_block"] == pytest.approx(float(np.exp(second.mean())))
    (axes,) = fig9_units.draw(rows.reset_index(), HELDOUT).axes
    ratios = {round(float(line.get_xdata()[0]), 9) for line in axes.lines if line.get_linestyle() == "None"}
    assert ratios == {round(float(np.exp(value)), 9) for value in rows["difference"]}
    lines = [label.get_text() for label in axes.get_yticklabels()]
    assert [line.endswith("compensation=linear") for line in lines] == [False, True, False]


def test_results_without_a_partner_or_the_losses_of_windows_are_left_out(
    launch: Command, tmp_path: Path
) -> None:
    ended = launch("-m", "unit=block,sublayer", "ratio=0.34", "study=units")
    frame = load(ended.results, "units")
    with pytest.raises(NothingToRead, match="unit=block,sublayer "):
        compared(ended.results, frame[frame["unit"] != "block"], HELDOUT)
    for path in (ended.results / "evaluation").rglob("*.terms.json"):
        path.unlink()
    with pytest.raises(NothingToRead, match="unit=block,sublayer "):
        compared(ended.results, frame, HELDOUT)


STUDY = ("-m", "study=heal", "objective=perplexity,block_influence", "algo=one_shot", "k=2", "eval.samples=4")
HEAL = (
    *("compensation=none", "heal=full", "heal.length=32", "heal.batch_tokens=128", "heal.heldout=2"),
    *("heal.eval_every=99", "heal.lr=0.01", "heal.patience=0"),
)


@pytest.mark.slow
def test_masks_have_the_losses_that_the_results_record(launch: Command, tmp_path: Path) -> None:
    assert launch(*STUDY, "compensation=none,linear").status == 0
    for more in ("heal.tokens=256", "heal.tokens=512", "heal.tokens=512"):
        ended = launch(*STUDY, *HEAL, more)
        assert ended.status == 0, ended.err
    last = launch(*STUDY, *HEAL, "heal.tokens=256", "heal.seed=1")
    frame = load(last.results, "heal")
    ((stratum, masks),) = healed(last.results, frame, HELDOUT).items()
    assert stratum == ("tiny", pytest.approx(1 / 3))
    assert sorted({state for one in masks for state in one.states}) == [
        PRUNED,
        REPAIRED,
        State(256, "healed"),
        State(512, "healed"),
    ]
    by_mask = {one.mask.dropped: one for one in masks}
    for path in last.results.glob("*/result.json"):
        result = read_done(path.parent)
        one, measured = by_mask[tuple(result["mask"]["dropped"])], result["evaluation"]
        which = REPAIRED if "repair" in result else PRUNED
        assert np.exp(one.losses(which).mean()) == pytest.approx(measured["pruned"][METRIC], rel=1e-5)
        if "repair" in result:
            assert np.exp(one.losses(PRUNED).mean()) == pytest.approx(
                measured["uncompensated"][METRIC], rel=1e-5
            )
            continue
        seeds = one.states[State(256, "healed")]
        assert len(seeds) == 2, "both seeds, each once"
        assert np.exp(
            min(seeds, key=lambda x: abs(np.exp(x.mean()) - measured["healed"][METRIC])).mean()
        ) == (pytest.approx(measured["healed"][METRIC], rel=1e-5))
    rows = table({stratum: masks})
    assert set(rows["state"]) == {"pruned", "repaired", "256 tokens", "512 tokens"}
    assert (rows.loc[rows["state"] == "pruned", "regained"] == 0).all()
    figure = fig10_healing.draw({stratum: masks}, summary({stratum: masks}), HELDOUT)
    assert len(figure.axes) == 3
    archive = tmp_path / "heal.tar.xz"
    pack(last.results, ["heal"], archive)
    again = healed_masks(folder(archive), load(folder(archive), "heal"), HELDOUT.names)
    assert table(again).equals(rows), "an archive holds all that the figure needs"


def test_too_few_masks_give_no_correlation_and_no_healing_says_what_to_run(launch: Command) -> None:
    ended = launch(*STUDY)
    with pytest.raises(NothingToRead, match="run experiment=heal"):
        healed(ended.results, load(ended.results, "heal"), HELDOUT)
    masks = healed_masks(ended.results, load(ended.results, "heal"), HELDOUT.names)
    assert summary(masks).empty


@pytest.mark.parametrize(("worst", "kinds"), [(2.9, {"all"}), (9.0, {"all", "near the best"})])
def test_masks_near_the_best_one_are_told_apart_only_if_others_are_worse(
    worst: float, kinds: set[str]
) -> None:
    masks = []
    for number, loss in enumerate([2.5, 2.6, 2.7, 2.8, worst]):
        one = HealedMask(Mask(30, (number,)), np.full(20, 2.0), ["random"])
        one.states[PRUNED], one.states[State(1000, "healed")] = (
            [np.full(20, loss)],
            [np.full(20, 2 + loss / 9)],
        )
        masks.append(one)
    assert set(summary({("tiny", 0.2): masks})["of"]) == kinds
