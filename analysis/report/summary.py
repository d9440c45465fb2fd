"""The summary of the report: sentences whose numbers and verdicts are computed here.

A verdict claims no more than its interval or test shows. If there is no interval and no test, the sentence says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..data.archive import NothingToRead
from ..data.load import OTHER, WORDS, standard_error
from ..figures.fig5_variance_shares import MASKS, accuracy, ratio_words
from ..figures.style import DASH, number, ordered, signed
from ..stats import mask_overlap, stability
from ..stats.agreement import LEVEL, all_negative, most
from ..stats.components import SOURCES, Shares
from ..stats.components import refused as refused_shares
from ..stats.grid import COMPARISONS, SETTING, STRATUM, bare, each, groups, removed_of, size
from ..stats.healed import PRUNED
from ..stats.perplexity_comparisons import SEARCH
from ..stats.regret import mean_gain
from .cells import LAST, Built, Column, Table, Value, built, numeric, points, shown, sorted_by, word
from .finding import tried
from .study_data import (
    FAILS,
    HOLDS,
    OPEN,
    StudyData,
    count,
    judged,
    listed,
    of,
    percent,
    percents,
    reasons,
    sentence,
    with_interval,
)


@dataclass(frozen=True)
class Part:
    """A heading and the sentences below it."""

    heading: str
    sentences: list[str]


def parts(m: StudyData) -> list[Part]:
    """All parts of the summary. If the study lacks the numbers for a part, the part says so."""
    every: dict[str, Callable[[StudyData], Iterator[str]]] = {
        "What was run": ran,
        "The paper's statements": claims,
        "Calibration against search": against,
        "What pruning for one objective costs in other outcomes": costs,
        "Comparison of searches": searches,
        "How far masks and rankings agree": agreement,
        "How certain a mask is": certainty,
        "What could not be computed, and why": refusals,
    }
    if compared(m):
        every[HEADING] = sentences
    if m.routing:
        every[ROUTING_HEADING] = routing_sentences
    return [Part(heading, _sentences(say, m)) for heading, say in every.items()]


def _sentences(say: Callable[[StudyData], Iterator[str]], m: StudyData) -> list[str]:
    try:
        return list(say(m))
    except NothingToRead as nothing:
        return [sentence([f"not known from this study: {nothing}".rstrip(".")])]


def ran(m: StudyData) -> Iterator[str]:
    """How much of the grid was run, and on which data."""
    frame = m.frame
    status = frame["status"].value_counts()
    lacking = [f"{status[name]:,} {name}" for name in ("failed", "missing", "damaged") if name in status]
    kinds = [
        count(frame[column].dropna().map(bare).nunique(), noun)
        for column, noun in (("model", "model"), ("objective", "objective"), ("algo", "search algorithm"))
    ]
    state = listed([f"{status.get('done', 0):,} finished", *lacking])
    state = state if lacking else "all finished"
    yield sentence(
        [f"the study asks for {count(len(frame), 'cell')}: {state}", f"they cover {listed(kinds)}"]
    )
    draws = m.cells.groupby(["calibration", "samples", "length"], dropna=False)["draw"].nunique()
    for where, n in draws.items():
        source, samples, length = where if isinstance(where, tuple) else (where, np.nan, np.nan)
        size = f"{samples:.0f} samples" + (f" of {length:.0f} tokens" if not np.isnan(float(length)) else "")
        yield sentence([f"calibration data {source}: {size}, drawn {count(int(n), 'time')}"])
    if lacking:
        by = groups(frame[frame["status"] != "done"], ["objective", "algo"])
        combinations = listed(f"{objective} with {algo} ({len(cells)})" for (objective, algo), cells in by)
        yield sentence([f"the unfinished cells are of {combinations}"])


def costs(m: StudyData) -> Iterator[str]:
    """For each model, k and outcome: the best objective, and what pruning for the other objectives costs."""
    if not m.metrics:
        raise NothingToRead("nothing was measured on held-out data")
    if "ppl" in m.metrics:
        yield "Perplexities are geometric means over cells, so that one broken model does not dominate them."
    for (model, k, kind), rows in groups(m.costs, [*STRATUM, "outcome"]):
        cells = m.cells[(m.cells["model"] == model) & (m.cells["k"] == k)]
        where = f"for {bare(str(model))} with {removed_of(cells.iloc[0])}"
        yield _cost(where, str(kind), rows, cells, m)
    if m.frame["objective"].nunique() == 1:
        yield "Only one objective was studied, so the cost of pruning for others is unknown."


def _cost(where: str, kind: str, rows: pd.DataFrame, cells: pd.DataFrame, m: StudyData) -> str:
    metric, sign = m.metrics[kind], -1 if kind == "acc" else 1
    unit = " percent" if kind == "acc" else ""
    known = rows.dropna(subset="mean").sort_values("cost")
    if known.empty:
        return sentence([f"{where}: no finished cell has the {metric.label}"])
    dense, best = float(metric.of(cells, "dense").mean()), known.iloc[0]
    parts = [
        f"{where}: {metric.label} is {'highest' if kind == 'acc' else 'lowest'} when pruned for "
        f"{best['objective']}, {_mean(best, sign)}{unit}",
        f"if nothing is removed, it is {number(dense)}{unit}",
    ]
    others = [_other(row, kind, sign) for row in each(known.iloc[1:])]
    text = "; ".join(parts) + (f". Pruning for {listed(others)}" if others else "")
    if others and (note := str(known.iloc[0]["note"])):
        text += f". These are means {note}"
    error = standard_error(metric, cells)
    worst = float(known["cost"].iloc[-1])
    if others and error is not None:
        text += f". The standard error of one measured {WORDS[kind]} is {number(error)}{' points' if unit else ''}"
        text += ", which is more than any of these differences" if worst < error else ""
    return sentence([text])


def _other(row: object, kind: str, sign: int) -> str:
    """The mean of an objective. Ratios of perplexities have a section of their own."""
    words = f", {number(row.cost)} points less" if kind == "acc" else ""  # type: ignore[attr-defined]
    return f"{row.objective} gives {_mean(row._asdict(), sign)}{words}"  # type: ignore[attr-defined]


def _mean(row: Mapping[str, Any] | pd.Series[Any], sign: int) -> str:
    """A mean with its interval over draws, if there is one. Accuracies have the sign -1."""
    low, high = sorted((sign * float(row["low"]), sign * float(row["high"])))
    mean = sign * float(row["mean"])
    return number(mean) if np.isnan(low) else with_interval(mean, low, high)


def searches(m: StudyData) -> Iterator[str]:
    """How near each algorithm came to the loss of the best known mask, and how many scores it asked for.

    Objectives for which one-shot is exact by construction are left out: there, every search finds the best mask.
    """
    if m.cells["algo"].nunique() < 2:
        yield "Only one search algorithm was studied, so there is nothing to compare."
        return
    if m.left_out:
        yield sentence([f"searches are compared {m.left_out}"])
    cells = m.judged.regrets
    problems = cells.groupby([*STRATUM, *SETTING], dropna=False)["exact"].any()
    yield sentence(
        [
            f"enumeration gives the exact best mask in {int(problems.sum())} of "
            f"{count(len(problems), 'problem')}",
            "in the others it is the best mask that any search scored, so regret is a lower bound",
            "a standard error is that of the paired difference from the best known mask on the same samples, on "
            "which that mask was chosen",
        ]
    )
    for algo in ordered(cells["algo"]):
        rows = cells[cells["algo"] == algo]
        errors = rows["regret_se"].dropna()
        at_best = int((rows["regret"] <= 1e-9).sum())
        text = f"the search {algo} found the best known mask in {at_best} of {count(len(rows), 'cell')}"
        if len(errors):
            mean, most = number(errors.mean()), number(errors.max())
            text += f"; its mean regret is {mean} standard errors, the maximum {most}"
        yield sentence([text, f"it asked for {number(rows['asked'].astype(float).mean())} scores on average"])


def certainty(m: StudyData) -> Iterator[str]:
    """How many masks tie with the chosen one, and whether other samples would give the same mask."""
    known = m.cells.dropna(subset="tied")
    if len(known):
        tied = int((known["tied"] > 0).sum())
        yield sentence(
            [
                f"in {tied} of {count(len(known), 'cell')}, some other scored mask is not significantly worse than "
                f"the chosen one (level 0.05, corrected for the number of masks compared)",
                f"the median number of such masks is {known['tied'].median():.0f}",
            ]
        )
    else:
        yield "No result has margins, so ties are unknown."
    yield from _sizes(m)
    rows = m.stability[0].dropna(subset="other_mask")
    for samples, part in groups(rows, "samples"):
        yield sentence(
            [
                f"if {samples:,.0f} calibration samples are resampled, the last decision of a search gives another "
                f"mask in {percent(part['other_mask'].mean())} percent of resamples (mean over "
                f"{count(len(part), 'cell')})",
                f"in {int(part['enough_pair'].notna().sum())} of these cells, two disjoint halves of the samples "
                f"choose the same mask at least nine times out of ten",
            ]
        )


def _sizes(m: StudyData) -> Iterator[str]:
    """How the overlap of two draws changes with the number of samples."""
    for (objective, model, k, data, length, *_), rows in groups(m.sizes, stability.FAMILY):
        alike = m.cells[(m.cells["model"] == model) & (m.cells["k"] == k)]
        overlaps = [
            f"{with_interval(row.corrected, row.low, row.high)} with {row.samples:,.0f}" for row in each(rows)
        ]
        of = "items" if pd.isna(length) else f"windows of {length:,.0f} tokens"
        yield sentence(
            [
                f"for {bare(str(model))} with {removed_of(alike.iloc[0])} for {objective} on {data}, masks of two "
                f"draws overlap, corrected for chance, by {listed(overlaps)} {of}"
            ]
        )


def refusals(m: StudyData) -> Iterator[str]:
    """Every statistic that could not be computed, and why."""
    reasons_given = list(refused(m))
    every = count(len(m.cells), "cell")
    for name in (name for metric in m.metrics.values() for name in metric.others):
        having = int(m.cells[f"pruned/{name}"].notna().sum())
        reasons_given.append(sentence([f"means do not include {name}: only {having:,} of {every} have it"]))
    for name, cells in groups(m.cells.dropna(subset=OTHER), OTHER):
        left = f"{name} of {count(len(cells), 'cell')} was measured on other data than that of most cells: left out"
        reasons_given.append(sentence([left]))
    notes = m.stability[0]["note"].fillna("")
    if reason := reasons(notes):
        reasons_given.append(sentence([f"stability: {reason}"]))
    if lacking := int(m.regrets["regret_se"].isna().sum()):
        without = f"{count(lacking, 'cell')} without losses that can be paired"
        reasons_given.append(sentence([f"regret in standard errors: {without}"]))
    yield from reasons_given or ["Nothing: every statistic of the figures could be computed."]


# Test the paper's statements on a study. The verdict is that a statement holds, does not hold, or is inconclusive.
#
# Statements are worded as in arXiv 2604.24938, v1 and v3. `paper/claims.py` tests statements of v1 with the numbers
# in its own tables, by the same rules (`stats.rules`). A verdict needs an interval or a test, and leaves out what
# holds by construction. The paper gives no thresholds for words such as "marginal"; those below are ours, and each
# sentence names them so.

MARGINAL = 0.1  # ours: an improvement is marginal if it is at most this share of what one-shot's mask costs


def claims(m: StudyData) -> Iterator[str]:
    """One sentence per statement: the verdict, then its numbers. If the study lacks numbers, the verdict is OPEN.

    If verdicts leave out an objective because of what holds by construction, a sentence before them says so.
    """
    if left := tried(lambda study: study.left_out, m):
        yield sentence([f"all verdicts are {left}"])
    for statement, judge in (
        ("'substantially larger role than the choice of search algorithm' in masks (v3)", _masks),
        ("the same in calibration perplexity (v3)", _calibration_perplexity),
        ("'contributing comparably to variance in downstream reasoning accuracy' (v3)", _accuracy),
        ("objectives give different masks (v1)", _objectives),
        ("searches 'converging to similar pruned subsets' (v3)", _searches),
        ("'marginal performance improvements over simple one-shot' (v3)", _one_shot),
        ("'average accuracy differences of 1-3 percentage points' between searches (v1)", points),
        ("rank by perplexity and rank by accuracy disagree (v1: five of six correlations negative)", _ranks),
        ("an objective measures what pruning costs (implied)", _damage),
    ):
        try:
            verdict, numbers = judge(m.judged)
        except NothingToRead as nothing:
            verdict, numbers = OPEN, [str(nothing).rstrip(".")]
        yield sentence([f"{statement}: {verdict}", *numbers])


def _masks(m: StudyData) -> tuple[str, list[str]]:
    return _larger(m.shares[0][MASKS])


def _calibration_perplexity(m: StudyData) -> tuple[str, list[str]]:
    """Judged on the perplexity of the calibration samples, which the statement speaks of; not on held-out text."""
    verdict, numbers = _larger(m.calibration_perplexity)
    return verdict, [*numbers, "of the rise above the dense model's, in cells pruned for perplexity"]


def _larger(shares: Shares) -> tuple[str, list[str]]:
    """Whether calibration explains more variance than the search, judged by the interval of the symmetric ratio."""
    ratio = shares.total_ratio
    if math.isnan(ratio.low):
        return OPEN, [shares.note or "the ratio has no interval"]
    words = [
        f"calibration : search {ratio_words(shares, 'total_ratio')}, with their interaction on both sides"
    ]
    if not math.isnan(shares.objective_ratio.low):
        words.append(f"objective : search {ratio_words(shares, 'objective_ratio')}")
        words.append(f"objective : draw {ratio_words(shares, 'objective_draw')}")
    return judged(ratio.low, ratio.high, 1.0), words


def _accuracy(m: StudyData) -> tuple[str, list[str]]:
    """The data can refute "comparably" but not prove it: if the interval contains 1, the verdict is OPEN."""
    label = next((label for label in m.shares[0] if accuracy(label)), None)
    if label is None:
        return OPEN, ["no accuracy was measured"]
    verdict, numbers = _larger(m.shares[0][label])
    if verdict == OPEN:
        return OPEN, [*numbers, *([m.answers.note] if m.answers.note else [])]
    if m.noise_alone.too_often:
        return OPEN, [*numbers, noise(m)]
    return FAILS, [*numbers, noise(m)]


def _objectives(m: StudyData) -> tuple[str, list[str]]:
    """Whether masks of two objectives on the same samples are less similar than masks of two draws of one."""
    found, without = m.overlap_difference("objectives", "draws"), mask_overlap.apart(m.cells)
    if found is None or math.isnan(found.low):
        return OPEN, [
            "at least two objectives on the same samples, and three draws of one size, are needed",
            without,
        ]
    words = f"corrected overlap {found.first:.2f} between objectives on the same samples, {found.second:.2f} between"
    apart = _difference(found.first - found.second, found.low, found.high)
    return judged(-found.high, -found.low, 0.0), [
        f"{words} draws of one objective (difference {apart})",
        without,
    ]


def _searches(m: StudyData) -> tuple[str, list[str]]:
    """Whether masks of two searches are more similar than masks of two draws of one search, for each objective."""
    verdicts, words = [], []
    for objective in sorted(set(m.cells["objective"])):
        found = m.overlap_difference("algorithms", "draws", objective)
        if found is not None and not math.isnan(found.low):
            verdicts.append(judged(found.low, found.high, 0.0))
            apart = _difference(found.first - found.second, found.low, found.high)
            words.append(f"{objective} {found.first:.2f} and {found.second:.2f} (difference {apart})")
    if not verdicts:
        return OPEN, ["at least two searches and three draws of one size are needed"]
    return _together(verdicts), [f"corrected overlap between searches and between draws: {', '.join(words)}"]


def _together(verdicts: list[str]) -> str:
    """One verdict for several objectives."""
    if len(set(verdicts)) == 1:
        return verdicts[0]
    return "holds for some objectives" if HOLDS in verdicts and FAILS not in verdicts else OPEN


def _one_shot(m: StudyData) -> tuple[str, list[str]]:
    """How much of what one-shot's mask costs the best known mask saves, on the same samples."""
    gains = m.gains
    if gains.empty:
        return OPEN, ["needed are one_shot and another search"]
    verdicts, words = [], []
    for objective, problems in gains.groupby("objective"):
        clear = f"clearly better in {int((problems['low'] > 0).sum())} of {count(len(problems), 'problem')}"
        if problems["relative"].isna().any():
            words.append(f"{objective} {clear} (no share: pruning can lower this loss)")
            continue
        mean = mean_gain(problems)
        verdicts.append(OPEN if math.isnan(mean.low) else judged(-mean.high, -mean.low, -MARGINAL))
        interval = "" if math.isnan(mean.low) else f" ({percent(mean.low)} to {percent(mean.high)})"
        words.append(f"{objective} {percent(mean.mean)} percent{interval}, {clear}")
    first = "share of the rise of one-shot's loss that the best known mask avoids, on the same samples"
    limit = f"our threshold for 'marginal' is {percent(MARGINAL)} percent"
    return _together(verdicts) if verdicts else OPEN, [f"{first}: {'; '.join(words)}", limit]


def _difference(value: float, low: float, high: float) -> str:
    return f"{value:+.2f}, {low:+.2f} to {high:+.2f}".replace("-", "−")  # noqa: RUF001


def _ranks(m: StudyData) -> tuple[str, list[str]]:
    correlations = spearman(m).dropna(subset="value")
    if correlations.empty:
        return OPEN, ["no panel has a correlation"]
    below, sure = int((correlations["value"] < 0).sum()), int((correlations["q"] <= LEVEL).sum())
    words = f"{below} of {count(len(correlations), 'correlation')} are negative, {sure} are significant"
    level = f"our level is {LEVEL}, with the false discovery rate controlled"
    return of(all_negative(list(correlations["value"]), list(correlations["q"]))), [words, level]


def _damage(m: StudyData) -> tuple[str, list[str]]:
    """Whether each objective rates most pruned models clearly worse than the whole one.

    If an objective rates most of them clearly better, it does not measure the damage done by pruning.
    """
    verdicts, words = [], []
    for objective, cells in m.against_dense.groupby("objective"):
        sides = list(cells["worse"])
        verdicts.append(of(most(sides)))
        numbers = [sides.count(True), sides.count(False), int(cells["lower"].sum())]
        words.append(f"{objective} {', '.join(map(str, numbers))} of {len(cells)}")
    return FAILS if FAILS in verdicts else _together(verdicts), [
        "cells in which the pruned model's loss is clearly above the whole model's, clearly below, and below at all: "
        + "; ".join(words),
        f"a difference is clear if a paired test on the same samples is significant at our level of {LEVEL}; for "
        "lower losses, the test is corrected for the number of scores that the search chose from",
        "our reading: most cells decide",
    ]


# The report's section on held-out perplexity relative to another objective, another search, or the pruned mask.

HEADING = "Held-out perplexity of objectives and searches relative to others"
WHERE = [*STRATUM, "state"]


def compared(m: StudyData) -> bool:
    """Whether two objectives or two searches have at least two draws with a perplexity."""
    return len(m.relative.objectives) + len(m.relative.searches) > 0


def sentences(m: StudyData) -> Iterator[str]:
    """For each model, k and state: the ratios of objectives, and the lowest and highest of the searches."""
    yield (
        "Ratios are of geometric means. Masks found on the same samples are compared in pairs, all others as "
        "independent ones."
    )
    if m.states["state"].value_counts().nunique() > 1:
        yield "Fewer masks were repaired or healed than pruned, so states differ in their draws and searches."
    for where, rows in groups(m.relative.objectives, WHERE, sort=False):
        others = [row for row in each(rows) if row.objective != row.reference]
        words = [f"{_text(row)} for {row.objective}" for row in others]
        yield sentence(
            [f"{_where(*where)}: relative to {others[0].reference}, perplexity is {listed(words)}"]
        )
    for where, rows in groups(m.relative.searches, WHERE, sort=False):
        ranges = [_range(str(objective), part) for objective, part in groups(rows, "objective", sort=False)]
        yield sentence([f"{_where(*where)}: relative to {SEARCH}, perplexity is {listed(ranges)}"])
    every = pd.concat([m.relative.objectives.query("objective != reference"), m.relative.searches])
    if every["low"].isna().any():
        yield (
            "A ratio has no interval if some data were drawn once, or if draws of several sizes contain each other "
            "(--only samples=N takes one size)."
        )


def _where(model: str, k: float, state: str) -> str:
    """What is compared: `masks of smollm2 with k = 3`, and what was done to them after pruning."""
    return f"masks of {model} with {size(model, k)}" + (f", {state}" if state != PRUNED.label else "")


def _range(objective: str, rows: pd.DataFrame) -> str:
    """The lowest and the highest ratio of the searches for one objective."""
    order = list(each(rows.sort_values("value", kind="stable")))
    low, high = (f"{_text(row)} with {row.algo}" for row in (order[0], order[-1]))
    if len(order) == 1:
        return f"{low} for {objective}"
    if len({_text(row) for row in order}) == 1:
        return f"{_text(order[0])} with every search for {objective}"
    return f"from {low} to {high} for {objective}"


def tables(m: StudyData) -> Iterator[Table]:
    """A table of objectives, of searches, and of repaired and healed masks for each model, if they were compared."""
    found = m.relative
    for name, frame, build, caption in (
        (
            "objectives",
            found.objectives,
            _objective_ratios,
            "Held-out perplexity relative to another objective (divergence; if it was not run, the one with the "
            "lowest mean perplexity)",
        ),
        (
            "searches",
            found.searches,
            _search_ratios,
            f"Held-out perplexity of each search relative to {SEARCH}",
        ),
        (
            "states",
            found.states,
            _states,
            "Held-out perplexity after repair and healing relative to pruned masks",
        ),
    ):
        for place, (model, rows) in enumerate(groups(frame, "model"), start=1):
            over = "with 95 percent intervals over calibration draws"
            yield Table(f"{name}-{place}", f"{caption}, {over}: {model}", *build(rows))


def _objective_ratios(rows: pd.DataFrame) -> Built:
    columns: list[Column] = [
        *_columns(rows, "objective"),
        ("perplexity", True, shown("ppl", None)),
        ("relative to the reference", True, _ratio),
        ("draws", True, shown("draws", "{:.0f}")),
        ("compared", False, _pairing),
    ]
    return built(rows, columns)


def _search_ratios(rows: pd.DataFrame) -> Built:
    return _crossed(rows, ["k", "state", "algo"], "objective", _columns(rows, "algo"))


def _states(rows: pd.DataFrame) -> Built:
    columns = [_columns(rows, name)[-1] for name in ("k", "objective", "algo")]
    return _crossed(rows, ["k", "objective", "algo"], "state", columns)


def _columns(rows: pd.DataFrame, last: str) -> list[Column]:
    """The columns k, state (if there are several), and `last`."""
    words = {"k": "k", "state": "state", "objective": "pruned for", "algo": "search"}
    names = ["k", *(["state"] if rows["state"].nunique() > 1 else []), last]
    return [(words[name], name == "k", shown(name, "{:.0f}")) for name in names]


def _crossed(rows: pd.DataFrame, index: list[str], column: str, first: list[Column]) -> Built:
    """One row for each combination of the values in `index`, and one column of ratios for each value of `column`."""
    names = list(dict.fromkeys(rows[column]))
    known = {
        (*(getattr(row, name) for name in index), getattr(row, column)): _ratio(row) for row in each(rows)
    }
    combinations = rows.drop_duplicates(index)
    headings, table = built(combinations, first)
    for line, row in zip(table, each(combinations), strict=True):
        key = tuple(getattr(row, name) for name in index)
        line += [known.get((*key, name), Value(DASH, LAST)) for name in names]
    return [*headings, *((str(name), True) for name in names)], table


def _ratio(row: Any) -> Value:
    reference = getattr(row, "reference", None) == row.objective
    return Value("1, the reference" if reference else _text(row), sorted_by(row.value))


def _pairing(row: Any) -> Value:
    text = "on the same samples" if row.paired else "as independent samples"
    return Value(text, text)


def _text(row: Any) -> str:
    return with_interval(row.value, row.low, row.high)


# The report's part about sets for tasks: sentences about routing, and a table of policies.

ROUTING_HEADING = "Sets for tasks"
POLICIES = ("dense", "static", "own", "random", "router", "likeliest", "oracle")


def routing_sentences(m: StudyData) -> Iterator[str]:
    """What routing gains in each group of cells, and whether the oracle's gain is more than chance."""
    for record in m.routing:
        gains = {
            name: routing_points(record["policies"][name]["gain"]) for name in ("router", "own", "oracle")
        }
        parts = [
            f"{named(record)}: accuracy against the best static set, in points: the router {gains['router']}, the "
            f"set of the prompt's task {gains['own']}, the oracle {gains['oracle']}"
        ]
        if (oracle := record.get("oracle")) is not None:
            parts.append(
                f"{routing_points(oracle['surviving'])} of the oracle's gain survive a second wording"
            )
            parts.append(f"{oracle['verdict']}".replace(": ", ", "))
        yield sentence(parts)


def table(m: StudyData) -> Built:
    """A row for each group of cells and policy: accuracy, gain over the static set, margin."""
    headings = [("cells", False), ("policy", False), ("accuracy, %", True), ("95 percent interval", False)]
    headings += [("gain over static, points", True), ("95 percent interval", False), ("margin", True)]
    rows = []
    for record in m.routing:
        for name in POLICIES:
            policy = record["policies"][name]
            rows.append(
                [word(named(record)), word(name), *_values(policy), numeric(policy["margin"], "{:.3f}")]
            )
    return headings, rows


def _values(policy: Mapping[str, Any]) -> Iterator[Value]:
    for name, form in (("accuracy", "{:.1f}"), ("gain", "{:+.1f}")):
        found = policy[name]
        yield numeric(100 * found["value"], form)
        yield word(f"{100 * found['low']:.1f} to {100 * found['high']:.1f}")


def named(record: Mapping[str, Any]) -> str:
    """The cells of a record in a few words."""
    size = f"k={record['k']}" if record["ratio"] is None else f"{record['ratio']:g}"
    unit = "" if record["unit"] == "block" else f" {record['unit']}"
    return f"{record['model']} {record['objective']} {record['algo']} {size}{unit}"


def routing_points(found: Mapping[str, float]) -> str:
    """`+1.2 (-0.3 to 2.6)`, in percentage points."""
    return f"{100 * found['value']:+.1f} ({100 * found['low']:.1f} to {100 * found['high']:.1f})"


# Sentences on shares of variance, on the agreement of rankings and on the overlap of masks.

NAMES = {
    "spearman": "Spearman's rho",
    "kendall": "Kendall's tau",
    "weighted": "weighted tau",
    "kendall_w": "Kendall's W",
}
TESTED = [source.name for source in SOURCES]
CUT = "shares and their intervals are cut off at 0, so shares can add up to more than 100 percent"


def against(m: StudyData) -> Iterator[str]:
    """For each outcome, the shares of calibration and search, with intervals and tests.

    Shares are over all cells, as in figure 5; what they say is judged without objectives for which one-shot is exact
    by construction. After all outcomes, the shares of model and pruning ratio in each outcome's sum of squares.
    """
    by_outcome, table = m.shares
    if not all(math.isnan(shares.parts["search"].value) for shares in by_outcome.values()):
        yield sentence([CUT, f"what they say is judged {m.left_out}" if m.left_out else ""])
    for label, shares in by_outcome.items():
        if math.isnan(shares.parts["search"].value):
            yield sentence([f"{label}: no shares; {shares.note}"])
            continue
        yield sentence([_parts(label, shares), *_verdict(shares, *_judged(m, label))])
        yield _objective(label, shares)
        yield _tested(label, table[table["outcome"] == label])
    for label, rows in groups(m.across.dropna(subset="share"), "outcome"):
        shown = rows[rows["source"].isin(("model", "ratio"))].sort_values("share", ascending=False)
        words = [
            f"the {row.source} explains {percents(row.share, row.low, row.high)}{_chance(row.q)}"
            for row in each(shown)
        ]
        if words:
            yield sentence([f"{label} over all cells: {listed(words)} of the sum of squares"])


def _chance(q: float) -> str:
    """The q of a test, in brackets. If the test is not significant, the text says so."""
    return " (not tested)" if math.isnan(q) else f" (q {q:.2g}{'' if q <= 0.05 else ', not significant'})"


def _parts(label: str, shares: Shares) -> str:
    named = {
        "calibration": "calibration",
        "search": "the search",
        "interaction": "interaction and the rest",
    }
    words = [
        f"{text} {percents(e.value, e.low, e.high)}"
        for name, text in named.items()
        for e in [shares.parts[name]]
    ]
    return f"{label}, variance within one model and size: {listed(words)}"


def doubtful(m: StudyData, label: str) -> bool:
    """Whether an outcome is an accuracy that its interval decides, although noise alone would do so too often."""
    ratio = m.shares[0][label].total_ratio
    return accuracy(label) and judged(ratio.low, ratio.high, 1.0) != OPEN and m.noise_alone.too_often


def noise(m: StudyData) -> str:
    """How often noise alone leads to a verdict on accuracy, and whether the noise of items was subtracted."""
    alone = m.noise_alone
    studies = f"{alone.decided} of {alone.studies} simulated studies"
    text = f"if all masks were equally accurate, {studies} would be decided"
    subtracted = m.answers.note or "the noise of items is subtracted"
    return f"{text}; {subtracted}"


def _judged(m: StudyData, label: str) -> tuple[Shares, str, str]:
    """The shares by which an outcome is judged, which objectives they leave out, and the doubt (see `_verdict`)."""
    without = listed(sorted(m.by_construction))
    try:
        judge = m.judged.shares[0][label]
    except (NothingToRead, KeyError):
        return refused_shares(0, 0, "no other cell has this outcome"), without, ""
    return judge, without, noise(m.judged) if doubtful(m.judged, label) else ""


def _verdict(shares: Shares, judge: Shares, without: str, doubt: str) -> list[str]:
    """Whether calibration or search explains more variance, judged by the interval of the symmetric ratio of `judge`.

    `without` names the objectives that `judge` leaves out, if any. `doubt` says that noise alone would lead to a
    verdict too often; empty if it would not.
    """
    if math.isnan(shares.total_ratio.value) and math.isnan(shares.total_ratio.low):
        return ["neither calibration nor search is above zero, so there is no ratio"]
    said = [
        f"calibration : search {ratio_words(shares, 'total_ratio')}, with their interaction on both sides"
    ]
    ratio = judge.total_ratio
    said += [f"without {without}, it is {ratio_words(judge, 'total_ratio')}"] if without else []
    if math.isnan(ratio.low):
        return [*said, judge.note or "it has no interval, so it is no evidence"]
    verdict = judged(ratio.low, ratio.high, 1.0)
    if verdict == OPEN:
        return [*said, "the interval contains 1, so it is inconclusive which explains more"]
    if doubt:
        return [*said, f"inconclusive: {doubt}"]
    return [*said, f"so {'calibration' if verdict == HOLDS else 'the search'} explains more here"]


def _objective(label: str, shares: Shares) -> str:
    """The objective against the search and against the draw, and the main effects of calibration and search."""
    parts = []
    if not math.isnan(shares.objective_ratio.low):
        parts = [
            f"objective : search {ratio_words(shares, 'objective_ratio')}, with the interaction on both sides",
            f"objective : draw {ratio_words(shares, 'objective_draw')}",
        ]
    plain = f"without the interaction, calibration : search is {ratio_words(shares, 'ratio')}"
    return sentence([f"{label}: {'; '.join([*parts, plain])}"])


def _tested(label: str, rows: pd.DataFrame) -> str:
    """Which sources of variance are significant in permutation tests."""
    tests = rows[rows["source"].isin(TESTED)].dropna(subset="q")
    if tests.empty:
        return sentence([f"{label}: no source could be tested"])
    strong = [f"{s} (q {q:.2g})" for s, q in zip(tests["source"], tests["q"], strict=True) if q <= 0.05]
    weak = [str(s) for s, q in zip(tests["source"], tests["q"], strict=True) if q > 0.05]
    significant = f"{label}, significant at a false discovery rate of 0.05: {listed(strong) or 'none'}"
    return sentence([significant, f"not significant: {listed(weak)}" if weak else ""])


def agreement(m: StudyData) -> Iterator[str]:
    """Overlap of masks, and agreement of perplexity ranks and accuracy ranks."""
    pairs = m.overlaps
    means = {name: pairs.loc[pairs["comparison"] == name, "corrected"].dropna() for name in COMPARISONS}
    words = [
        f"{v.mean():.2f} if only {name} differ ({len(v):,} pairs)" for name, v in means.items() if len(v)
    ]
    if words:
        said = f"corrected overlap of masks (0 is chance, 1 is equality): {listed(words)}"
        yield sentence([said, mask_overlap.note(m.cells)])
    correlations = spearman(m)
    known = correlations.dropna(subset="value")
    if known.empty:
        yield sentence(
            [f"no panel has a correlation of perplexity and accuracy ranks: {reasons(correlations['note'])}"]
        )
        return
    significant = int((known["q"] <= 0.05).sum())
    yield sentence(
        [
            f"Spearman's correlation of perplexity rank and accuracy rank over searches is between "
            f"{signed(known['value'].min())} and {signed(known['value'].max())} "
            f"in {count(len(known), 'panel')}, median {signed(known['value'].median())}",
            f"at a false discovery rate of 0.05, {significant or 'none'} of them can be distinguished from chance",
        ]
    )


def spearman(m: StudyData) -> pd.DataFrame:
    """Spearman's correlation of perplexity rank and accuracy rank, for each panel over all searches of the panel."""
    every = m.agreements
    return every[(every["statistic"] == "spearman") & (every["masks"] == "all")]


def refused(m: StudyData) -> Iterator[str]:
    """Which shares of variance, tests and statistics of rank agreement could not be computed, and why."""
    try:
        by_outcome, table = m.shares
    except NothingToRead as nothing:
        yield sentence([f"shares of variance: {nothing}".rstrip(".")])
    else:
        for label, shares in by_outcome.items():
            if shares.note:
                yield sentence([f"shares of variance of {label}: {shares.note}"])
        notes = table.loc[table["p"].isna() & table["source"].isin(TESTED)]
        for source, rows in notes.groupby("source", sort=False):
            if reason := reasons(rows["p_note"].replace(np.nan, "")):
                yield sentence([f"the test of {source}: {reason}"])
    try:
        lacking = m.agreements
    except NothingToRead as nothing:
        yield sentence([f"rank agreement: {nothing}".rstrip(".")])
        return
    for (name, over), rows in lacking[lacking["value"].isna()].groupby(["statistic", "of"], sort=False):
        yield sentence(
            [f"{NAMES.get(str(name), name)} of {str(over).replace(', ', ' and ')}: {reasons(rows['note'])}"]
        )
