"""What the report is made of, computed once and shared by its figures, tables and sentences."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import agreements, fig4_overlap, fig6_crossed, fig8_stability, shares
from analysis.load import describe, done, load, trace
from analysis.metrics import Metric, choose, measured
from analysis.only import Only
from analysis.stats import crossed
from analysis.stats.estimates import Shares

Record = Mapping[str, Any]
Frames = tuple[pd.DataFrame, pd.DataFrame]


@dataclass(frozen=True)
class Material:
    """A study, and what was computed of it. A property raises NothingToRead where the study does not hold it."""

    results: Path
    study: str | None
    only: Only = field(default_factory=dict)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """All cells, missing and failed ones included."""
        return load(self.results, self.study, self.only)

    @cached_property
    def cells(self) -> pd.DataFrame:
        """The finished cells."""
        return done(self.frame)

    @cached_property
    def title(self) -> str:
        """The title line of every figure."""
        return describe(self.frame, self.study, self.only)

    @cached_property
    def records(self) -> dict[str, Record]:
        """`result.json` of each cell that left one, failed ones too."""
        paths = {cell: self.results / cell / "result.json" for cell in map(str, self.frame["cell"])}
        return {
            cell: json.loads(path.read_text(encoding="utf-8"))
            for cell, path in paths.items()
            if path.exists()
        }

    @cached_property
    def traces(self) -> dict[str, list[dict[str, Any]]]:
        """The scored masks of each finished cell."""
        return {cell: trace(self.results, cell) for cell in map(str, self.cells["cell"])}

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """Mean perplexity and mean accuracy, as far as they were measured."""
        return measured(self.frame)

    @cached_property
    def costs(self) -> pd.DataFrame:
        """What pruning for each objective costs in mean perplexity and accuracy (negative: less is better)."""
        signed = {kind: m.of(self.cells) * (-1 if kind == "acc" else 1) for kind, m in self.metrics.items()}
        return crossed.matrix(self.cells, signed, ["ppl"])

    @cached_property
    def crossed(self) -> Frames:
        """The matrix of objectives and outcomes, and every cell with its regret."""
        return fig6_crossed.matrix_of(self.cells), self.regrets

    @cached_property
    def regrets(self) -> pd.DataFrame:
        """Every finished cell with its distance to the best known mask."""
        return crossed.best_known(self.cells, self.traces)

    @cached_property
    def agreements(self) -> pd.DataFrame:
        """Rank agreement of perplexity and accuracy, by every statistic."""
        return agreements.table(self.frame, choose(self.frame, "ppl"), choose(self.frame, "acc"))

    @cached_property
    def shares(self) -> tuple[dict[str, Shares], pd.DataFrame]:
        """Where the variance of each outcome comes from."""
        return shares.measure(self.cells, shares.outcomes(self.cells, None, None))

    @cached_property
    def across(self) -> pd.DataFrame:
        """What of each outcome is model and ratio, and how objectives and searches act in them."""
        return shares.across(self.cells, shares.outcomes(self.cells, None, None))

    @cached_property
    def overlaps(self) -> pd.DataFrame:
        """Pairs of masks that differ in one thing."""
        return fig4_overlap.comparisons(self.frame)

    @cached_property
    def stability(self) -> Frames:
        """How often other samples would have chosen another mask, and the curves over the number of samples."""
        return fig8_stability.measure(self.frame, self.results)
