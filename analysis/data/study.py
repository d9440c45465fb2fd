"""The study that a command selects: its cells, its title, its journals, and messages on damaged files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pruning.core.records import item_hits, kept_terms, read_done
from pruning.core.scoring import NAME as TRACE
from pruning.core.scoring import TraceEntry, TraceLine, read_trace

from ..stats.grid import NO_COMPENSATION, bare, column, uncompensated
from ..stats.healed import PRUNED, comparable
from .archive import NothingToRead
from .load import OTHER, Metric, Only, done, load


@dataclass(frozen=True, eq=False)
class AskedStudy:
    """The cells that a command selects. If none of them is finished, properties raise NothingToRead.

    Studies are compared and hashed by identity, so that `functools.cache` can cache functions of a study.
    """

    results: Path
    study: str | None
    only: Only = field(default_factory=dict)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """All cells, including missing, failed and damaged cells."""
        return load(self.results, self.study, self.only)

    @cached_property
    def title(self) -> str:
        """The title line of every figure."""
        return describe(self.frame, self.study, self.only)

    @cached_property
    def journals(self) -> Journals:
        """The journals of the finished cells."""
        return journals(self.results, done(self.frame))

    def without(self, objectives: Collection[str]) -> AskedStudy:
        """The study without the cells of `objectives`. No file is read again.

        Raises NothingToRead if no finished cell is left.
        """
        frame = self.frame[~self.frame["objective"].isin(objectives)].reset_index(drop=True)
        if done(frame).empty:
            raise NothingToRead(f"there are no finished cells but those of {', '.join(sorted(objectives))}.")
        kept = replace(self)
        vars(kept).update(frame=frame, journals=self.journals)
        return kept

    @property
    def damages(self) -> list[str]:
        """A message for each damaged result and, if journals have been read, for each damaged journal."""
        results = [str(text) for text in self.frame["damage"].dropna()]
        return results + (self.journals.damages if "journals" in self.__dict__ else [])

    @property
    def absent(self) -> list[str]:
        """A message if journals have been read and some cells have none, as in an archive packed without them."""
        return self.journals.absent if "journals" in self.__dict__ else []


# The title line of every figure.

LISTED = 12  # more values than this are counted instead of listed


def describe(frame: pd.DataFrame, study: str | None, only: Only = MappingProxyType({})) -> str:
    """The title line of every figure: study, models, seeds, commits, and how many cells are missing or failed."""
    finished = done(frame)
    named: dict[str, Iterable[Any]] = {
        "model": finished["model"].map(bare),
        "unit": column(finished, "unit", "block"),
        "compensation": column(finished, "compensation", NO_COMPENSATION),
        "seed": finished["seed"],
        "commit": finished["commit"].fillna("unknown"),
    }
    usual = {"unit": {"block"}, "compensation": {NO_COMPENSATION}}
    shown = {n: values for n, values in named.items() if n not in only and set(values) != usual.get(n)}
    filters = (f"only {name} {', '.join(kept)}" for name, kept in only.items())
    parts = [f"study {study or 'all'}", *filters, *(_listed(*each) for each in shown.items())]
    if lacking := len(frame) - len(finished):
        names = "missing, failed or damaged" if (frame["status"] == "damaged").any() else "missing or failed"
        parts.append(f"{lacking} of {len(frame)} cells {names}")
    if others := sum(text != "" for text in column(finished, OTHER, "")):
        parts.append(f"{others} of {len(finished)} cells measured on other held-out data, which is left out")
    return " · ".join(parts)


def _listed(name: str, values: Iterable[Any]) -> str:
    distinct = sorted({str(value).removesuffix(".0") for value in values})
    if len(distinct) > LISTED:
        return f"{len(distinct)} {name}s"
    return f"{name}{'s' if len(distinct) > 1 else ''} {', '.join(distinct)}"


# The journals of finished cells: which masks were scored, and what is wrong with damaged journals.


@dataclass(frozen=True)
class Journals:
    """The scored masks of each finished cell, what is wrong with damaged journals, and whether some are absent.

    `lines` includes the partial scores of races, which only the statistics of costs use.
    """

    lines: dict[str, list[TraceLine]]
    damages: list[str]
    absent: list[str]

    @cached_property
    def traces(self) -> dict[str, list[TraceLine]]:
        """The scores over all samples, by cell: `lines` without the partial scores."""
        return {cell: _whole(lines) for cell, lines in self.lines.items()}


def journals(results: Path, finished: pd.DataFrame) -> Journals:
    """Read the journals of finished cells. If a journal is damaged, its readable scores are used.

    A missing journal is damage, unless all cells of its objective lack theirs.
    """
    lines, damages = dict[str, list[TraceLine]](), []
    exist = finished["cell"].map(lambda cell: (results / str(cell) / TRACE).exists())
    absent = ~exist.groupby(finished["objective"]).transform("any")
    for cell, dropped, without in zip(finished["cell"], finished["dropped"], absent, strict=True):
        path, entries = results / str(cell) / TRACE, list[TraceEntry]()
        try:
            entries = list(read_trace(path))
            reason = _lacking(path, entries, dropped)
        except OSError as error:
            reason = f"cannot be read ({error.strerror})"
        lines[cell] = [entry.line for entry in entries if entry.line is not None]
        if reason and not without:
            damages.append(f"{cell}/{TRACE} {reason}")
    count = f"{absent.sum():,} of {len(lines):,} finished cells"
    said = f"{count} have no journal; of their searches, only the chosen masks are known"
    return Journals(lines, damages, [said] if absent.any() else [])


def _lacking(path: Path, entries: list[TraceEntry], dropped: tuple[int, ...]) -> str:
    """What is wrong with the journal of a finished cell; an empty text if it is complete."""
    if not path.exists():
        return "is missing"
    scores = _whole(entry.line for entry in entries if entry.line is not None)
    whole = all(entry.line is not None for entry in entries)
    whole &= path.stat().st_size <= (entries[-1].end if entries else 0)
    found = any(tuple(score["dropped"]) == dropped for score in scores)
    return "" if whole and found else "is damaged or cut off"


def _whole(lines: Iterable[TraceLine]) -> list[TraceLine]:
    return [line for line in lines if "of" not in line]


# How each cell's mask answers each item of a task. The noise of an accuracy is computed from this.


def answers(
    results: Path, cells: Sequence[str], tasks: Sequence[str]
) -> tuple[dict[str, NDArray[np.float64]], str]:
    """For each task (`acc/<task>`), an array (cells, items) of how correct each cell's answer to each item is.

    If a cell's answers were not stored, or if cells have different items, the reason is returned in place of arrays.
    """
    found = {}
    read = [read_done(results / cell) for cell in cells] if tasks else []
    for task in tasks:
        kept = [kept_terms(results, result, task) for result in read]
        known = [right for terms in kept if terms is not None and (right := item_hits(terms)) is not None]
        if lacking := len(cells) - len(known):
            return {}, f"the answers to single items were not kept in {lacking:,} of {len(cells):,} cells"
        digests = {result["evaluation"]["data"].get(task) for result in read}
        if len(digests) > 1 or len({len(right) for right in known}) > 1:
            return {}, f"cells were measured on different items of {task}"
        found[task] = np.array(known)
    return found, ""


# The held-out outcomes of masks in each state: pruned, repaired, or healed on a number of tokens.


def by_state(cells: pd.DataFrame, metrics: Mapping[str, Metric]) -> pd.DataFrame:
    """One row for each state of each finished cell's mask, with a column for each kind in `metrics`.

    Labels in `model` omit the compensation, so that all states of a mask are in one stratum. Healed states have the
    most frequent settings of healing; tokens and seeds may differ. States are sorted: pruned, repaired, healed.
    """
    plain = cells[[name for name in cells if "/" not in str(name)]]
    repair = pd.Series(column(cells, "compensation", NO_COMPENSATION), cells.index)
    before = repair.map(lambda name: PRUNED.label if name == NO_COMPENSATION else f"repaired ({name})")
    parts = [plain.assign(**{kind: one.of(cells) for kind, one in metrics.items()}, state=before, tokens=0)]
    tokens = _tokens(cells)
    if len(healed := tokens[tokens > 0]):
        names = healed.map(lambda n: f"healed on {n:,} tokens")
        first = before[healed.index]
        states = names.where(first == PRUNED.label, first + ", " + names)
        means = {kind: one.of(cells.loc[healed.index], "healed") for kind, one in metrics.items()}
        parts.append(plain.loc[healed.index].assign(**means, state=states, tokens=healed))
    table = pd.concat(parts)
    table = table.assign(
        repaired=repair[table.index] != NO_COMPENSATION, model=table["model"].map(uncompensated)
    )
    return table.sort_values(["tokens", "repaired"], kind="stable").reset_index(drop=True)


def _tokens(cells: pd.DataFrame) -> pd.Series[int]:
    """The number of tokens on which each mask was healed; 0 if not healed with the most frequent settings."""
    settings = column(cells, "healing", None)
    kinds = [None if one is None else comparable(one) for one in settings]
    counts = Counter(kind for kind in kinds if kind is not None)
    usual = max(counts, key=lambda kind: (counts[kind], kind), default=None)
    known = zip(settings, kinds, strict=True)
    tokens = [one["tokens"] if one is not None and kind == usual else 0 for one, kind in known]
    return pd.Series(tokens, cells.index, dtype=int)
