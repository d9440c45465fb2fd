"""The command line of the figures, the tables and the report. Its arguments select the cells."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ..data.cell_filter import column, subfolder
from ..data.load import describe, load
from ..data.mlflow_store import folder, is_store
from .style import use_style


def arguments(description: str, metrics: bool = False, cost: Sequence[str] = ()) -> argparse.Namespace:
    """Parse `--results DIR --study NAME --only COLUMN=VALUES --out DIR`.

    If `--results` is an archive or the URI of an MLflow store, the returned `results` is a temporary folder with the
    contents of the archive or store. `metrics` adds `--perplexity NAME` and `--accuracy NAME`. If `cost` is not
    empty, the option `--cost` is added, with these choices.
    """
    parser = argparse.ArgumentParser(description=description)
    where = "a results folder, an archive (*.tar.xz), or an MLflow store: sqlite:///FILE, http://HOST:PORT"
    parser.add_argument("--results", default="results", help=where)
    parser.add_argument("--study", default=None, help="use the cells of this study only; default: all cells")
    parser.add_argument(
        "--only",
        type=column,
        action="append",
        default=[],
        metavar="COLUMN=VALUE,VALUE",
        help="use only cells that have one of these values; may be repeated",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="the folder to write to; default: RESULTS/figures, or figures for a store or archive",
    )
    if metrics:
        every = "default: the mean over all that nearly every cell has"
        parser.add_argument("--perplexity", metavar="NAME", help=f"the corpus, as in ppl/NAME; {every}")
        parser.add_argument("--accuracy", metavar="NAME", help=f"the task, as in acc/NAME; {every}")
    if cost:
        parser.add_argument("--cost", choices=cost, default=cost[0], help="the unit of cost")
    given = parser.parse_args()
    stored = is_store(given.results)
    given.results = folder(given.results)
    given.only = dict(given.only)
    given.out = given.out or (Path() if stored else given.results) / "figures" / subfolder(given.only)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger(__name__.partition(".figures")[0]).setLevel(logging.INFO)
    use_style()
    return given


def asked(given: argparse.Namespace) -> tuple[pd.DataFrame, str]:
    """All cells that the command line selects, including missing cells, and a title line that describes these cells.

    Raises NothingToRead if no selected cell is finished.
    """
    frame = load(given.results, given.study, given.only)
    return frame, describe(frame, given.study, given.only)
