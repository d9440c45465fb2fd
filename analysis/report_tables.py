"""The sortable tables of the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from analysis import table3_search
from analysis.figure import DASH, number
from analysis.load import NothingToRead
from analysis.outcomes import aggregate
from analysis.report_cells import anchor
from analysis.report_drawings import strip
from analysis.report_material import Material
from analysis.typeset import spread

LAST = "~"  # sorts behind every number and name


@dataclass(frozen=True)
class Value:
    """A cell of a table: its text, what it sorts by, and where it leads to."""

    text: str | Markup
    key: str
    link: str = ""


@dataclass(frozen=True)
class Table:
    """Headings with whether they hold numbers, and rows; `reason` says why there is nothing."""

    name: str
    caption: str
    headings: Sequence[tuple[str, bool]] = ()
    rows: Sequence[Sequence[Value]] = ()
    reason: str = ""


def tables(m: Material) -> Iterator[Table]:
    """All tables but the one of the cells; one that the study does not support says why."""
    for name, caption, build in (
        (
            "accuracy",
            "Accuracy by objective and search, in percent: mean and standard deviation over cells",
            _accuracy,
        ),
        (
            "perplexity",
            "Perplexity by objective and search: mean and standard deviation over cells",
            _perplexity,
        ),
        ("search", "What a search costs: means over objectives, calibration data and draws", _search),
        (
            "shares",
            "Shares of variance within model and k, with 95 percent intervals and permutation tests",
            _shares,
        ),
        ("across", "Model, ratio and their interactions: part of the sum of squares over all cells", _across),
        ("agreement", "Agreement of rankings of the searches, by panel and statistic", _agreement),
    ):
        try:
            headings, rows = build(m)
            yield Table(name, caption, headings, rows)
        except NothingToRead as nothing:
            yield Table(name, caption, reason=str(nothing))


Built = tuple[list[tuple[str, bool]], list[list[Value]]]


def cells(m: Material) -> Table:
    """Every cell that was asked for, with a link to its entry."""
    shown = {kind: metric.of(m.frame) for kind, metric in m.metrics.items()}
    named = {"ppl": "perplexity", "acc": "accuracy, %"}
    rows = []
    for i, (_, row) in enumerate(m.frame.iterrows()):
        done = row["status"] == "done"
        mask = strip(int(row["n_blocks"]), row["dropped"]) if done else Markup("")
        first = [_text(row[name]) for name in ("model", "objective", "algo")]
        rows.append(
            [
                Value(str(row["status"]), str(row["status"]), anchor(str(row["cell"]))),
                *first,
                _number(row["k"], "{:.0f}"),
                _text(row["calibration"]),
                _number(row["seed"], "{:.0f}"),
                Value(mask, " ".join(f"{b:03d}" for b in row["dropped"]) if done else LAST),
                _number(row["loss"] - row["dense_loss"], "{:+.3f}"),
                *(_number(values.iloc[i], None) for values in shown.values()),
                _number(row["asked"], "{:,.0f}"),
                _number(row["seconds"], "{:,.0f}"),
            ]
        )
    headings = [("cell", False), ("model", False), ("objective", False), ("search", False), ("k", True)]
    headings += [("data", False), ("seed", True), ("blocks removed", False), ("loss added", True)]
    headings += [*((named[kind], True) for kind in shown), ("asked", True), ("seconds", True)]
    return Table("cells", "Every cell of the study; the first column leads to its entry", headings, rows)


def _accuracy(m: Material) -> Built:
    return _outcome(m, "acc", "table1_accuracy", "margin")


def _perplexity(m: Material) -> Built:
    return _outcome(m, "ppl", "table2_perplexity", "perplexity")


def _outcome(m: Material, kind: str, paper: str, objective: str) -> Built:
    if kind not in m.metrics:
        raise NothingToRead(f"no {'accuracy' if kind == 'acc' else 'perplexity'} was measured in this study.")
    found = aggregate(m.frame, m.metrics[kind], paper, objective)
    digits = 1 if kind == "acc" else 2

    def value(row: Any) -> Value:
        text = spread(row.mean, row.sd, int(row.cells), int(row.asked), digits)
        return Value(text, _key(row.mean))

    names = {"objective": "pruned for", "model": "model", "k": "k", "algo": "search"}
    columns: list[tuple[str, bool, Callable[[Any], Value]]] = [
        *((text, name == "k", _of(name, "{:.0f}")) for name, text in names.items()),
        (m.metrics[kind].label, True, value),
        ("nothing removed", True, _of("dense", f"{{:.{digits}f}}")),
    ]
    if found["paper"].notna().any():
        columns.append(("paper", True, _of("paper", "{:.2f}")))
    return _built(found, columns)


def _search(m: Material) -> Built:
    found = table3_search.aggregate(m.frame)
    plain = [("model", "model"), ("k", "k"), ("algo", "search"), ("cells", "cells")]
    columns = [(text, name in ("k", "cells"), _of(name, "{:.0f}")) for name, text in plain]
    columns += [(text, True, _of(name, None)) for name, text in table3_search.MEASURES.items()]
    if found["paper_seconds"].notna().any():
        columns.append(("paper, seconds", True, _of("paper_seconds", "{:,.0f}")))
    return _built(found, columns)


def _shares(m: Material) -> Built:
    _, found = m.shares
    columns = [(name, False, _of(name, None)) for name in ("outcome", "source")]
    columns += [(name, True, _of(name, "{:.2f}")) for name in ("share", "low", "high")]
    columns += [(name, True, _of(name, "{:.3f}")) for name in ("p", "q")]
    return _built(found, [*columns, ("why not", False, _of("p_note", None))])


def _across(m: Material) -> Built:
    columns = [(name, False, _of(name, None)) for name in ("outcome", "source")]
    columns += [("df", True, _of("df", "{:.0f}")), ("share", True, _of("share", "{:.3f}"))]
    columns += [(name, True, _of(name, "{:.3f}")) for name in ("p", "q")]
    return _built(m.across, [*columns, ("why not", False, _of("note", None))])


def _agreement(m: Material) -> Built:
    names = ("objective", "model", "k", "statistic", "of", "masks")
    columns = [(name, name == "k", _of(name, "{:.0f}")) for name in names]
    columns += [(name, True, _of(name, "{:.2f}")) for name in ("value", "low", "high")]
    columns += [(name, True, _of(name, "{:.3f}")) for name in ("p", "q")]
    return _built(m.agreements, [*columns, ("why not", False, _of("note", None))])


def _built(found: pd.DataFrame, columns: Sequence[tuple[str, bool, Callable[[Any], Value]]]) -> Built:
    rows = [[value(row) for _, _, value in columns] for row in found.itertuples(index=False)]
    return [(heading, numeric) for heading, numeric, _ in columns], rows


def _of(column: str, form: str | None) -> Callable[[Any], Value]:
    def value(row: Any) -> Value:
        found = getattr(row, column)
        return _text(found) if isinstance(found, str) or found is None else _number(found, form)

    return value


def _text(value: Any) -> Value:
    known = isinstance(value, str) and value
    return Value(str(value), str(value)) if known else Value("", LAST)


def _number(value: Any, form: str | None) -> Value:
    found = float(value) if value is not None else np.nan
    if np.isnan(found):
        return Value(DASH, LAST)
    if np.isinf(found):
        return Value("∞", _key(found))
    return Value(number(found) if form is None else form.format(found), _key(found))


def _key(value: float) -> str:
    return LAST if np.isnan(value) else repr(float(value))
