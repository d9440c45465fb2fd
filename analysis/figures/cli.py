"""The command line of the figures, the tables and the report. Its arguments select the cells.

`run` draws only what has changed since the last run (see `drawn_before`).
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from ..data.cell_filter import column, merged, subfolder
from ..data.errors import NothingToRead
from ..data.mlflow_store import expanded, is_store
from ..data.study import AskedStudy
from . import drawn_before
from .style import use_style

log = logging.getLogger(__name__)

Draw: TypeAlias = Callable[[argparse.Namespace, AskedStudy], list[Path]]


def arguments(description: str, metrics: bool = False, cost: Sequence[str] = ()) -> argparse.Namespace:
    """Parse `--results DIR --study NAME --only COLUMN=VALUES --out DIR`.

    `metrics` adds `--perplexity NAME` and `--accuracy NAME`. If `cost` is not
    empty, the option `--cost` is added, with these choices.
    """
    parser = argparse.ArgumentParser(description=description)
    where = "a results folder, an archive (*.tar.xz), or an MLflow store: sqlite:///FILE, http://HOST:PORT"
    parser.add_argument("--results", default="results", type=expanded, help=where)
    parser.add_argument("--study", default=None, help="use the cells of this study only; default: all cells")
    parser.add_argument(
        "--only",
        type=column,
        action="append",
        default=[],
        metavar="COLUMN=VALUE,VALUE",
        help="use only cells that have one of these values; may be repeated, also with one column",
    )
    parser.add_argument(
        "--out",
        type=lambda text: Path(text).expanduser(),
        help="the folder to write to; default: RESULTS/figures, or figures for a store or archive",
    )
    if metrics:
        every = "default: the mean over all that nearly every cell has"
        parser.add_argument("--perplexity", metavar="NAME", help=f"the corpus, as in ppl/NAME; {every}")
        parser.add_argument("--accuracy", metavar="NAME", help=f"the task, as in acc/NAME; {every}")
    if cost:
        parser.add_argument("--cost", choices=cost, default=cost[0], help="the unit of cost")
    given = parser.parse_args()
    given.only = merged(given.only)
    home = Path() if is_store(given.results) else Path(given.results)
    given.out = given.out or home / "figures" / subfolder(given.only)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger(__name__.partition(".figures")[0]).setLevel(logging.INFO)
    use_style()
    return given


def run(name: str, given: argparse.Namespace, draw: Draw) -> None:
    """Draw the figure `name`, unless its inputs and files are those of the last run.

    `draw` returns the files that it wrote, the one to look at first. If files of the study are damaged, `draw` uses
    what can be read; then this function names the files and ends the command with exit code 1.
    """
    inputs = drawn_before.inputs(given)
    if (record := drawn_before.read(given.out, name, inputs)) is None:
        _check_out(given.out)
        study = AskedStudy(given.results, given.study, given.only)
        files = draw(given, study)
        record = drawn_before.write(given.out, name, inputs, files, study.damages)
        log.info("%-8s %s", record.kind, files[0].resolve())
    else:
        log.info("%-8s %s (unchanged)", record.kind, record.first.resolve())
    for damage in record.damages:
        log.warning("damaged  %s", damage)
    if record.damages:
        raise SystemExit(1)


def _check_out(out: Path) -> None:
    """Raise NothingToRead if no file can be written to `out`. This is checked before anything is computed."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        reason = (
            "there is a file in its place"
            if isinstance(error, FileExistsError | NotADirectoryError)
            else error.strerror
        )
        raise NothingToRead(
            f"the folder {out} cannot be written ({reason}): choose another with --out DIR."
        ) from error
