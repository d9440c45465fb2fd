"""Sentences of pages state what the archives of the studies say, computed here again."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from analysis.figures.fig10_healing import summary
from analysis.report.study_data import with_interval
from analysis.stats.estimands import DRAWN, OBJECTIVE, SEARCH, Change, changes, search_lines
from analysis.stats.grid import at, labels
from analysis.stats.mask_overlap import MaskSet
from analysis.stats.mask_overlap import compared as compared_pairs
from analysis.stats.means import CellDraws, DrawMean, over_draws, over_pairs
from docs import described
from docs.described import ALL, GEMMA, MAIN, NAMES, ON_ITEMS, ROOT, SMOLLM2, blocks, path
from docs.described import TEXT as OF_TEXT
from docs.described import study as archived

RESULTS = path("results.md").read_text(encoding="utf-8")
PARTS = tuple(f"study{part}" for part in ("", "_all", "_sizes", "_seeds", "_labels", "_units", "_healing"))
FOUR = ("one_shot", "greedy", "beam", "bayesian")  # the searches of study_losses


def page(name: str) -> str:
    """The text of a page on one line."""
    return " ".join(path(name).read_text(encoding="utf-8").split())


WRITTEN = page("results.md")


def test_each_finding_has_one_number_and_one_interval_in_bold() -> None:
    findings = re.split(r"^## ", RESULTS, flags=re.MULTILINE)[1:7]
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


def of_losses(objective: str, model: str, name: str = "study_losses") -> pd.DataFrame:
    """The cells of an objective, with the logarithm of their held-out perplexity."""
    own = archived(name, (objective,), FOUR, model)
    return own.cells.assign(log=np.log(own.metrics["ppl"].of(own.cells).astype(float)))


def contrast(first: pd.DataFrame, second: pd.DataFrame) -> tuple[DrawMean, DrawMean]:
    """First minus second, as in analysis/study_losses/plan.md: blocks that another draw changes, and ln(perplexity).

    Both have the same searches and draws. The jackknife leaves out a draw of both.
    """
    both = pd.concat([first, second], ignore_index=True)
    drawn = CellDraws(labels(both, ["draw"]), np.zeros(len(both), dtype=np.int64))
    sign = np.where(np.arange(len(both)) < len(first), 2.0, -2.0)  # each side has half of the cells
    i, j = compared_pairs(both, "draws")
    moved = MaskSet.of(both).pairs(i, j).changed * sign[i]
    return over_pairs(moved, drawn.take(i), drawn.take(j)), over_draws(both["log"].to_numpy() * sign, drawn)


def ratios(first: pd.DataFrame, second: pd.DataFrame) -> list[float]:
    """The perplexity of the first cells' masks over that of the second's, in each draw, in ascending order."""
    one, other = (cells.groupby("draw")["log"].mean() for cells in (first, second))
    return sorted(np.exp(one - other))


@pytest.mark.slow
def test_sentences_on_other_losses_are_those_of_the_archive() -> None:
    others = ("divergence", "answer", "choice")
    of = {(name, model): of_losses(name, model) for name in (*others, "margin") for model in NAMES}
    assert {len(cells) for cells in of.values()} == {len(FOUR) * 6}
    margin = {pair: contrast(of["margin", pair[1]], cells) for pair, cells in of.items() if pair[0] in others}
    text = {
        model: contrast(of["divergence", model], of_losses("divergence", model, "study")) for model in NAMES
    }

    def costs(found: tuple[DrawMean, DrawMean]) -> str:
        return with_interval(*np.exp([found[1].mean, found[1].low, found[1].high]))

    def rest(name: str) -> str:
        """The ratios of five of Gemma's draws, without the draw that ruins its masks."""
        low, *_, high, ruined = ratios(of["margin", GEMMA], of[name, GEMMA])
        assert low > 1
        assert ruined > 10_000
        return f"{low:.2f} to {high:.1f}"

    small = [costs(margin[name, SMOLLM2]) for name in others]
    changed = [text[SMOLLM2], text[GEMMA], margin["divergence", SMOLLM2], margin["divergence", GEMMA]]
    more = [f"{found[0].mean:.2f}" for found in changed]
    assert all(margin[name, GEMMA][1].low < 0 < text[GEMMA][1].low for name in others)
    told = changes(archived("study_losses", ON_ITEMS).cells)
    (apart,) = (one for one in told if {*one.objectives, *one.others} == {"divergence", "answer"})
    sentences = [
        f"SmolLM2's masks for the margin have {small[0]} times the held-out perplexity of masks for divergence",
        f"They have {small[1]} times that of masks for `answer`, which ignores wrong answers, and {small[2]} times "
        "that of masks for `choice`, a margin with a bound (means over four searches)",
        "(the others: {}, {} and {})".format(*map(rest, others)),
        f"have {costs(text[SMOLLM2])} times the perplexity of those on text, on Gemma {costs(text[GEMMA])}",
        f"make another draw change {more[0]} more blocks on SmolLM2 and {more[1]} on Gemma",
        f"the margin instead of divergence adds {more[2]} and {more[3]}.",
        f"SmolLM2's masks for divergence and `answer` differ in {apart.changed.mean:.2f} blocks",
    ]
    for sentence in sentences:
        assert sentence in WRITTEN


@pytest.mark.slow
def test_planned_comparisons_are_those_of_the_archive() -> None:
    rows = {
        f"`{one}` - `margin`": (one, "margin", "study_losses") for one in ("choice", "answer", "divergence")
    }
    rows["`divergence` on items - on text"] = ("divergence", "divergence", "study")
    plan = (ROOT / "analysis/study_losses/plan.md").read_text("utf-8")
    for name, (one, other, study) in rows.items():
        found = [
            f"{mean.mean:.2f} ({mean.low:.2f} to {mean.high:.2f})"
            for model in NAMES
            for mean in contrast(of_losses(one, model), of_losses(other, model, study))
        ]
        assert f"| {name} | {' | '.join(found)} |" in plan


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
        f"Another draw changes {drawn[0]} and {drawn[1]}.",
        f"another search changes {said(gemma, SEARCH, 'perplexity')} of 4 blocks, and another draw "
        f"{said(gemma, DRAWN, 'perplexity')}",
        f"of 6 blocks; chance is {small[SEARCH, 'margin'].chance:.2f}.",
        f"of 4; chance is {gemma[SEARCH, 'margin'].chance:.2f}.",
        f"Another draw of 64 items changes {said(small, DRAWN, 'margin')} of SmolLM2's 6 blocks",
        f"Another search changes {said(small, SEARCH, 'margin')}",
        f"single draws differ from the others in {single(small)}",
        f"Of Gemma's 4 blocks, another draw changes {said(gemma, DRAWN, 'margin')}, another search "
        f"{said(gemma, SEARCH, 'margin')}",
        f"differ from masks for perplexity and divergence in {said(small, OBJECTIVE, apart)} of 6 blocks",
        f"On Gemma it is {said(gemma, OBJECTIVE, apart)} of 4",
        f"differ in {said(small, OBJECTIVE, both)} and {said(gemma, OBJECTIVE, both)} blocks.",
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
    losses = [len(of_losses(name, model)) for name in ON_ITEMS if name != "margin" for model in NAMES]
    assert f"{len(cells) + len(gemma) + sum(losses)} runs" in WRITTEN


@pytest.mark.slow
def test_sentences_on_the_margin_are_those_of_the_archive() -> None:
    own = archived("study", MAIN)
    compared = described.ratio(own.relative.objectives, objective="margin")
    assert (
        f"Yet on SmolLM2 they have {compared} times the perplexity of masks for divergence on text" in WRITTEN
    )
    low, *_, last, broken = ratios(*(of_losses(name, GEMMA, "study") for name in ("margin", "divergence")))
    assert f"on Gemma {low:.1f} to {last:.1f} times in five draws; one mask of the sixth" in WRITTEN
    gemma = archived("study", MAIN, model=GEMMA)
    largest = gemma.metrics["ppl"].of(gemma.cells).astype(float).max()
    assert f"has a perplexity of {largest:.1e}".replace("e+", "e") in WRITTEN
    assert broken > 1000
    cells = own.cells[own.cells["objective"] == "margin"]
    better = cells[cells["algo"].isin(("greedy", "beam", "genetic", "bayesian"))]
    assert len(better) == (better["loss"] < better["dense_loss"]).sum() == 24
    ends = " to ".join(f"{-dense:.2f}" for dense in (cells["dense_loss"].max(), cells["dense_loss"].min()))
    assert f"prefers right answers by {ends} nats per token; all 24 masks" in WRITTEN
    right, other = described.accuracy(own, "margin"), described.accuracy(own, "divergence").split()[0]
    said = right.replace(")", ") percent of held-out items right, masks for divergence")
    assert f"masks for the margin answer {said} {other}." in WRITTEN
    known = gemma.cells.assign(acc=gemma.metrics["acc"].of(gemma.cells))
    acc = known.groupby(["objective", "draw"])["acc"].mean()
    assert (acc["margin"] > acc["divergence"]).sum() == 5
    dense = (
        archived("study", ("margin",), model=model).cells["dense/acc/arc_easy"].iloc[0] for model in NAMES
    )
    assert "SmolLM2 answers {:.0f} percent, Gemma {:.0f}".format(*(100 * one for one in dense)) in WRITTEN


@pytest.mark.slow
def test_sentences_on_harder_searches_are_those_of_the_archive() -> None:
    own = archived("study", MAIN)
    gain = described.ratio(own.relative.searches, objective="margin", algo="beam")
    assert f"beam search has {gain} times the held-out perplexity of one-shot" in WRITTEN

    def correlations(model: str, *objectives: str) -> list[float]:
        data = archived("study", MAIN, model=model)
        dense, pruned = (data.metrics["ppl"].of(data.cells, *of).astype(float) for of in (("dense",), ()))
        lines = search_lines(data.cells, np.log(pruned / dense))
        return [line.correlation for line in lines if line.objective in objectives]

    found = correlations(SMOLLM2, *OF_TEXT)
    assert len(found) == 12
    assert f"have correlations of {min(found):.2f} to {max(found):.2f}." in WRITTEN
    found = correlations(SMOLLM2, "margin")
    assert f"For the margin, they are {min(found):.2f} to {max(found):.2f}." in WRITTEN


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
def test_archives_are_complete_and_hold_the_hours_of_search() -> None:
    frames = {name: archived(name, model=None).frame for name in (*PARTS, "small")}
    assert all(set(frame["status"]) == {"done"} for frame in frames.values())
    hours = {name: frames[name].groupby("model")["seconds"].sum() / 3600 for name in PARTS}
    small, gemma = (hours["study"][model] for model in NAMES)
    every = sum(own.sum() for own in hours.values())
    said = f"{small:.1f} hours of search on SmolLM2 and {gemma:.1f} on Gemma; all parts together took {every:.1f}"
    assert said in page("studies.md")
