"""Draw a figure or a table of a study, as PNG, PDF and CSV.

depth-pruning figure NAME [OPTIONS]
depth-pruning figure all [OPTIONS]      every figure and table with data in the study

    --results DIR           a results folder, or an archive (*.tar.xz); default: results
    --study NAME            use only the cells of this study; default: all cells
    --only COLUMN=VALUE,... use only cells with one of these values; may be repeated
    --out DIR               the folder to write to; default: RESULTS/figures, or figures for an archive
    --perplexity NAME       in some figures: the corpus, as in ppl/NAME; default: the mean over the usual ones
    --accuracy NAME         in some figures: the task, as in acc/NAME; default: the mean over the usual ones

NAME is one of fig1 to fig10, and table1 to table3.
"""

from __future__ import annotations

import argparse
import io
import logging
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from pruning.core.errors import unknown
from pruning.core.storage import write_bytes, write_text

from ..data.archive import NothingToRead, folder, is_archive
from ..data.load import filter_column
from ..data.study import AskedStudy
from .style import use_style

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Drawing:
    """A figure, the table of the numbers in it, and further tables, keyed by file name."""

    figure: Figure
    numbers: pd.DataFrame
    others: Mapping[str, pd.DataFrame] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyFigure:
    """A figure or table of a study; calling it runs its command.

    `build` gets the study and the options of the command. If the figure has a `caption` and `asked(study)` is
    true, the report shows the figure in part `section` (`report/summary.py`). `metrics` adds the options
    `--perplexity` and `--accuracy`.
    """

    name: str
    heading: str
    build: Callable[[AskedStudy, Namespace], Drawing]
    caption: str = ""
    section: str = ""
    asked: Callable[[AskedStudy], bool] = lambda _: True
    metrics: bool = False

    def of(self, study: AskedStudy) -> Drawing:
        """The figure of `study`, drawn with default options."""
        return self.build(study, Namespace(perplexity=None, accuracy=None))

    def __call__(self) -> None:
        """Run the command."""
        parser = study_arguments(self.heading)
        if self.metrics:
            parser.add_argument("--perplexity", metavar="NAME")
            parser.add_argument("--accuracy", metavar="NAME")
        given = parsed(parser)
        run("figure", given, lambda study: self.save(self.build(study, given), study, given.out))

    def save(self, drawing: Drawing, study: AskedStudy, out: Path) -> Path:
        """Write the files of a drawing, and return the path of the PNG."""
        return save(drawing, out, self.name, self.heading, study.title)


def main() -> None:
    """Draw the figure named by the first argument, or all. Raises InputError if there is no such figure."""
    name, *words = sys.argv[1:]
    known = figures()
    if name not in (*known, "all"):
        raise unknown("figure", name, [*known, "all"])
    sys.argv = [f"{sys.argv[0]} {name}", *words]
    (_draw_all if name == "all" else known[name])()


def figures() -> dict[str, StudyFigure]:
    """All figures and tables, keyed by command. FIGURE in the file `figN_NAME.py` belongs to the command `figN`."""
    modules = sorted(
        Path(__file__).parent.glob("fig*.py"), key=lambda path: int(path.stem.partition("_")[0][3:])
    )
    found = {
        path.stem.partition("_")[0]: import_module(f".{path.stem}", __package__).FIGURE for path in modules
    }
    tables = import_module(".outcome_tables", __package__)
    return found | {f"table{number}": getattr(tables, f"TABLE{number}") for number in (1, 2, 3)}


def _draw_all() -> None:
    """Draw all figures that the study has data for, with default options. The study is read once."""
    given = parsed(study_arguments("Every figure and table that the study has data for."))
    study, failed = _study(given), []
    for figure in figures().values():
        try:
            log.info("%-8s %s", "figure", figure.save(figure.of(study), study, given.out).resolve())
        except NothingToRead as nothing:
            log.info("no       %s: %s", figure.name, nothing)
        except Exception as error:  # other figures are still drawn
            failed.append(f"{figure.name} could not be drawn ({type(error).__name__}: {error})")
    _end_with(study, failed)


def save(drawing: Drawing, out: Path, name: str, title: str = "", provenance: str = "") -> Path:
    """Write NAME.png, NAME.pdf, NAME.csv and a CSV for each other table of a drawing. Return the path of the PNG.

    The metadata of the images contain the title and the provenance.
    """
    # The files get no date, so that equal results give equal bytes.
    about: dict[str, dict[str, str | None]] = {
        "png": {"Software": None, "Title": title, "Description": provenance},
        "pdf": {"CreationDate": None, "Title": title, "Subject": provenance},
    }
    for ending, metadata in about.items():
        stream = io.BytesIO()
        drawing.figure.savefig(stream, format=ending, metadata=metadata)
        write_bytes(out / f"{name}.{ending}", stream.getvalue())
        drawing.figure.set_layout_engine("none")  # the PDF keeps the layout of the PNG
    for file, table in {name: drawing.numbers, **drawing.others}.items():
        write_text(out / f"{file}.csv", table.to_csv(index=False))
    return out / f"{name}.png"


def study_arguments(about: str) -> argparse.ArgumentParser:
    """A parser for `--results DIR --study NAME --only COLUMN=VALUES --out DIR`."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--results", default="results", type=_expanded)
    parser.add_argument("--study")
    parser.add_argument("--only", type=filter_column, action="append", default=[])
    parser.add_argument("--out", type=_expanded)
    return parser


def _expanded(text: str) -> Path:
    return Path(text).expanduser()


def parsed(parser: argparse.ArgumentParser) -> Namespace:
    """Parse the arguments of a command. Also set the style of figures and the format of the log."""
    given = parser.parse_args()
    only: dict[str, list[str]] = {}
    for name, kept in given.only:
        only[name] = [*dict.fromkeys([*only.get(name, ()), *kept])]
    given.only, home = only, Path() if is_archive(given.results) else given.results
    # Figures of selected cells get their own folder, so that they do not replace figures of all cells.
    chosen = "__".join(f"{name}={','.join(kept)}" for name, kept in only.items())
    given.out = given.out or home / "figures" / chosen
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger(__name__.partition(".figures")[0]).setLevel(logging.INFO)
    use_style()
    return given


def run(kind: str, given: Namespace, draw: Callable[[AskedStudy], Path]) -> None:
    """Draw a study, and log the path of the file that `draw` returns.

    If files of the study are damaged, `draw` uses what can be read. Then the damage is logged, and the
    command ends with exit code 1.
    """
    study = _study(given)
    log.info("%-8s %s", kind, draw(study).resolve())
    _end_with(study)


def _study(given: Namespace) -> AskedStudy:
    """The study that the arguments name. Raises NothingToRead or, if `out` cannot be written, OSError."""
    study = AskedStudy(folder(given.results), given.study, given.only)
    _ = study.frame
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=given.out):
        return study


def _end_with(study: AskedStudy, failed: Sequence[str] = ()) -> None:
    """Log what is absent or damaged. If anything is damaged or has failed, end the command with exit code 1."""
    for text in study.absent:
        log.warning("absent   %s", text)
    for damage in (damages := [*study.damages, *failed]):
        log.warning("damaged  %s", damage)
    if damages:
        raise SystemExit(1)
