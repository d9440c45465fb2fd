"""Sentences of pages state what the archives of the studies say, computed here again."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest

from analysis.figures.fig10_healing import summary
from analysis.report.study_data import with_interval
from analysis.stats.estimands import DRAWN, OBJECTIVE, SEARCH, Change, search_lines
from analysis.stats.grid import at
from docs import described
from docs.described import ALL, GEMMA, MAIN, NAMES, ROOT, SMOLLM2, blocks, path
from docs.described import TEXT as OF_TEXT
from docs.described import study as archived

RESULTS = path("results.md").read_text(encoding="utf-8")
PARTS = tuple(f"study{part}" for part in ("", "_all", "_sizes", "_seeds", "_labels", "_units", "_healing"))
MIDDLE = (13, 14, 15, 16, 17, 18)


def page(name: str) -> str:
    """The text of a page on one line."""
    return " ".join(path(name).read_text(encoding="utf-8").split())


WRITTEN = page("results.md")


def test_each_finding_has_one_number_and_one_interval_in_bold() -> None:
    findings = re.split(r"^## ", RESULTS, flags=re.MULTILINE)[1:6]
    for number, finding in enumerate(findings, start=1):
        assert finding.startswith(f"{number}. ")
        (bold,) = re.findall(r"\*\*(.*?)\*\*", " ".join(finding.split()))
        assert len(re.findall(r"[\d.]+ to [\d.]+", bold)) == 1
    abstract = RESULTS.split("\n\n")[1]
    assert len(abstract.split()) <= 120


def moves(model: str) -> dict[tuple[str, str], Change]:
    """What moves the masks of a model, by factor and first objective; of objectives, by both."""
    found = {}
    for one in described.estimates(model):
        found[
            one.factor, " : ".join(" or ".join(names) for names in (one.objectives, one.others) if names)
        ] = one
    return found


@pytest.mark.slow
def test_blocks_that_change_are_those_of_the_archive() -> None:
    small, gemma = moves(SMOLLM2), moves(GEMMA)

    def said(found: dict[tuple[str, str], Change], factor: str, name: str) -> str:
        return blocks(found[factor, name].changed)

    def single(found: dict[tuple[str, str], Change]) -> str:
        each = found[DRAWN, "margin"].each
        return f"{min(each):.2f} to {max(each):.2f}"

    both, apart = "perplexity : divergence", "perplexity or divergence : margin"
    drawn = [said(small, DRAWN, name) for name in ("perplexity", "divergence")]
    sentences = [
        f"another search changes {said(small, SEARCH, 'perplexity')} of the 6 blocks for perplexity",
        f"For divergence it is {said(small, SEARCH, 'divergence')}",
        f"Another draw changes less: {drawn[0]} and {drawn[1]}",
        f"another search changes {said(gemma, SEARCH, 'perplexity')} of 4 blocks, and another draw "
        f"{said(gemma, DRAWN, 'perplexity')}",
        f"Chance would change {small[SEARCH, 'margin'].chance:.2f} of 6 blocks on SmolLM2 and "
        f"{gemma[SEARCH, 'margin'].chance:.2f} of 4 on Gemma",
        f"Another draw of 64 items changes {said(small, DRAWN, 'margin')} of SmolLM2's 6 blocks",
        f"Another search changes {said(small, SEARCH, 'margin')}",
        f"single draws differ from the others in {single(small)}",
        f"On Gemma it is {said(gemma, DRAWN, 'margin')} (single draws: {single(gemma)}) and "
        f"{said(gemma, SEARCH, 'margin')} of 4",
        f"differ from masks for perplexity and divergence in {said(small, OBJECTIVE, apart)} of 6 blocks",
        f"On Gemma it is {said(gemma, OBJECTIVE, apart)} of 4",
        f"differ in {said(small, OBJECTIVE, both)} and {said(gemma, OBJECTIVE, both)} blocks on the same samples",
    ]
    for sentence in sentences:
        assert sentence in WRITTEN
    for factor in (SEARCH, DRAWN):
        assert gemma[factor, "divergence"].changed.mean == 0
    readme = " ".join((ROOT / "README.md").read_text("utf-8").split())
    for factor, name in ((SEARCH, "perplexity"), (DRAWN, "perplexity"), (DRAWN, "margin")):
        assert f" {small[factor, name].changed.mean:.2f}" in readme


@pytest.mark.slow
def test_counts_in_sentences_are_those_of_the_archive() -> None:
    cells, gemma = (archived("study", ALL, model=model).cells for model in NAMES)
    assert f"{len(cells) + len(gemma)} runs" in WRITTEN
    text = cells[cells["objective"].isin(OF_TEXT) & cells["algo"].isin(("beam", "bayesian"))]
    assert (text["dropped"] == MIDDLE).sum() == len(text) == 24
    assert "remove blocks 13 to 18, counted from 0, in all 24 runs for text" in WRITTEN
    optima = archived("study_all", OF_TEXT, model=GEMMA)
    best = optima.cells[optima.cells["algo"] == "exhaustive"].set_index(["objective", "draw"])["dropped"]
    found = optima.cells.join(best.rename("best"), on=["objective", "draw"])
    counts = (found["dropped"] == found["best"]).groupby(found["algo"]).sum()
    assert (len(best), counts["beam"], counts["genetic"], counts["greedy"]) == (6, 6, 6, 0)
    assert "beam and genetic search found the best one in six of six problems, greedy in none" in WRITTEN


def ratios(model: str) -> Iterator[float]:
    """The perplexity of masks for the margin over that of masks for divergence, in each draw."""
    own = archived("study", ("margin", "divergence"), model=model)
    logs = own.cells.assign(log=np.log(own.metrics["ppl"].of(own.cells).astype(float)))
    means = logs.groupby(["objective", "draw"])["log"].mean()
    yield from np.sort(np.exp(means["margin"] - means["divergence"]))


@pytest.mark.slow
def test_sentences_on_the_margin_are_those_of_the_archive() -> None:
    own = archived("study", MAIN)
    compared = described.ratio(own.relative.objectives, objective="margin")
    assert (
        f"masks for the margin have {compared} times the held-out perplexity of masks for divergence"
        in WRITTEN
    )
    low, *_, high = small = list(ratios(SMOLLM2))
    assert f"By draw it is {low:.1f} to {high:.0f}, with a median of {np.median(small):.1f}" in WRITTEN
    low, *_, last, broken = ratios(GEMMA)
    assert f"the other five have {low:.1f} to {last:.1f} times that of divergence" in WRITTEN
    gemma = archived("study", MAIN, model=GEMMA)
    largest = gemma.metrics["ppl"].of(gemma.cells).astype(float).max()
    assert f"a perplexity of {largest:.1e}".replace("e+", "e") in WRITTEN
    assert broken > 1000
    cells = own.cells[own.cells["objective"] == "margin"]
    better = cells[cells["algo"].isin(("greedy", "beam", "genetic", "bayesian"))]
    assert len(better) == (better["loss"] < better["dense_loss"]).sum() == 24
    ends = " to ".join(f"{-dense:.2f}" for dense in (cells["dense_loss"].max(), cells["dense_loss"].min()))
    assert f"prefers right answers by {ends} nats per token, and all 24 masks" in WRITTEN
    accurate = {name: described.accuracy(own, name).split()[0] for name in ("margin", "divergence")}
    assert f"({accurate['margin']} instead of {accurate['divergence']} percent)" in WRITTEN
    right = gemma.cells.assign(acc=gemma.metrics["acc"].of(gemma.cells))
    acc = right.groupby(["objective", "draw"])["acc"].mean()
    assert (acc["margin"] > acc["divergence"]).sum() == 5
    dense = (
        archived("study", ("margin",), model=model).cells["dense/acc/arc_easy"].iloc[0] for model in NAMES
    )
    assert "SmolLM2 answers {:.0f} percent and Gemma {:.0f}".format(*(100 * one for one in dense)) in WRITTEN


@pytest.mark.slow
def test_sentences_on_harder_searches_are_those_of_the_archive() -> None:
    own = archived("study", MAIN)
    gains = {name: described.ratio(own.relative.searches, objective=name, algo="beam") for name in MAIN}
    assert f"beam search has {gains['margin']} times the held-out perplexity of one-shot" in WRITTEN
    text = " and ".join(gains[name].split()[0] for name in ("perplexity", "divergence"))
    assert f"For perplexity and divergence it has {text} times" in WRITTEN

    def correlations(model: str, *objectives: str) -> list[float]:
        data = archived("study", MAIN, model=model)
        dense, pruned = (data.metrics["ppl"].of(data.cells, *of).astype(float) for of in (("dense",), ()))
        lines = search_lines(data.cells, np.log(pruned / dense))
        return [line.correlation for line in lines if line.objective in objectives]

    found = correlations(SMOLLM2, *OF_TEXT)
    assert len(found) == 12
    assert f"have a correlation of {min(found):.2f} to {max(found):.2f}." in WRITTEN
    found = correlations(SMOLLM2, "margin")
    assert f"a higher perplexity ({min(found):.2f} to {max(found):.2f})" in WRITTEN
    found = correlations(GEMMA, "perplexity")
    assert [(np.array(found) < 0).sum(), (np.array(found) > 0).sum()] == [4, 1]
    assert "for perplexity the harder searches gain in four draws and lose in one" in WRITTEN


@pytest.mark.slow
def test_sentences_on_repair_and_training_are_those_of_the_archive() -> None:
    own = archived("study_healing")
    found = own.relative.states
    falls = []
    for state in described.STATES[1:]:
        values = 100 * (1 - found.loc[found["state"].str.startswith(state), "value"])
        assert len(values) == 6
        falls.append(f"by {min(values):.0f} to {max(values):.0f} percent")
    assert f"(mean over three held-out corpora) {falls[0]}, training {falls[1]}" in page("measured.md")


def test_rank_correlations_after_training_are_those_of_the_archive() -> None:
    found = summary(described.trained())
    rows = found[found["state"] == described.LARGEST].set_index("of")
    for of, before in (("near the best", "the rank correlation is"), ("all", "bad ones included, it is")):
        value, low, high = (
            f"{at(rows, of, f'correlation{end}'):.2f}".replace("-", "\N{MINUS SIGN}")
            for end in ("", "_low", "_high")
        )
        assert f"{before} {value} ({low} to {high})" in page("measured.md")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:invalid value")  # of accuracy, which has no finite ratio
def test_ratios_of_variances_and_their_limits_are_those_of_the_archive() -> None:
    ratios, limits = [], []
    for model in NAMES:
        masks = next(iter(archived("study", MAIN, model=model).shares.values()))
        ratios.append(with_interval(masks.total_ratio.value, masks.total_ratio.low, masks.total_ratio.high))
        parts = {name: part.value for name, part in masks.parts.items()}
        limits.append(f"{parts['calibration'] / parts['interaction'] + 1:.1f}")
    said = "{} on SmolLM2 and {} on Gemma; if search had no effect, this ratio would be {} and {}"
    assert said.format(*ratios, *limits) in page("statistics.md")


@pytest.mark.slow
def test_a_regret_below_one_error_of_the_loss_is_no_reason_to_call_a_mask_as_good() -> None:
    own, written = archived("study", ("perplexity",)), page("statistics.md")
    cells = own.regrets.query("algo == 'fast_block_select'")
    in_errors = (cells["regret"] / cells["standard_error"].astype(float)).mean()
    assert f"for perplexity are {in_errors:.2f} such errors above the best" in written
    assert f"their paired difference is {cells['regret_se'].mean():.1f} errors" in written
    perplexity = own.cells.assign(ppl=own.metrics["ppl"].of(own.cells))
    logs = perplexity.pivot(index="draw", columns="algo", values="ppl")
    assert (own.regrets.query("algo == 'beam'")["regret"] == 0).all()
    assert (logs["fast_block_select"] > logs["beam"]).sum() == 6


@pytest.mark.slow
def test_archives_are_complete_and_hold_the_hours_of_search() -> None:
    frames = {name: archived(name, model=None).frame for name in (*PARTS, "small")}
    assert all(set(frame["status"]) == {"done"} for frame in frames.values())
    hours = {name: frames[name].groupby("model")["seconds"].sum() / 3600 for name in PARTS}
    small, gemma = (hours["study"][model] for model in NAMES)
    every = sum(own.sum() for own in hours.values())
    said = f"{small:.1f} hours of search on SmolLM2 and {gemma:.1f} on Gemma; all parts together took {every:.1f}"
    assert said in page("studies.md")
