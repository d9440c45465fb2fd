"""The command line that all figures, tables and the report share, and the cells it asks for."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis.figure import use_style
from analysis.load import describe, load
from analysis.only import column, subfolder
from analysis.store import folder, is_store


def arguments(description: str, metrics: bool = False, cost: Sequence[str] = ()) -> argparse.Namespace:
    """`--results DIR --study NAME --only COLUMN=VALUES`, and `out`, the folder that figures go to.

    `--results` may also be the URI of an MLflow store; then `results` is a temporary folder with what it holds.
    With `metrics` also `--perplexity NAME` and `--accuracy NAME`, with `cost` a choice of what is paid in.
    """
    parser = argparse.ArgumentParser(description=description)
    where = "the folder of the cells, or an MLflow store: sqlite:///FILE, http://HOST:PORT"
    parser.add_argument("--results", default="results", help=where)
    parser.add_argument("--study", default=None, help="draw the cells of this study only")
    parser.add_argument(
        "--only",
        type=column,
        action="append",
        default=[],
        metavar="COLUMN=VALUE,VALUE",
        help="of these cells only",
    )
    parser.add_argument(
        "--out", type=Path, help="where figures go; default: RESULTS/figures, or figures for a store"
    )
    if metrics:
        every = "default: the mean over those that nearly every cell has"
        parser.add_argument("--perplexity", metavar="NAME", help=f"the corpus, as in ppl/NAME; {every}")
        parser.add_argument("--accuracy", metavar="NAME", help=f"the task, as in acc/NAME; {every}")
    if cost:
        parser.add_argument("--cost", choices=cost, default=cost[0], help="what is spent")
    found = parser.parse_args()
    stored = is_store(found.results)
    found.results = folder(found.results)
    found.only = dict(found.only)
    found.out = found.out or (Path() if stored else found.results) / "figures" / subfolder(found.only)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("analysis").setLevel(logging.INFO)
    use_style()
    return found


def asked(given: argparse.Namespace) -> tuple[pd.DataFrame, str]:
    """All cells that the command line asks for, missing ones included, and the title line that says which they are.

    Raises NothingToRead where there are none, ValueError for a value of `--only` that no cell has.
    """
    frame = load(given.results, given.study, given.only)
    return frame, describe(frame, given.study, given.only)
