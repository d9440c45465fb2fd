"""The commands of figures, tables and the report: their arguments, and what is drawn again.

A figure's file ends with a `StudyFigure`. The command measures and draws it, unless its inputs and files are those of
the last run, and writes NAME.png, NAME.pdf, NAME.csv and further tables.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import platform
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import pandas as pd
from matplotlib.figure import Figure

from pruning.core import records, storage
from pruning.core.errors import DamagedError
from pruning.core.records import LOG, NAME
from pruning.core.scoring import NAME as TRACE
from pruning.core.storage import file_sha256, text_sha256, write_bytes, write_text

from ..data.archive import NothingToRead, expanded, folder, is_archive, is_store
from ..data.load import cells_of, filter_column, merged, subfolder
from ..data.study import ROUTING, AskedStudy, side_files
from .style import use_style

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Drawing:
    """A figure, the numbers drawn, and further tables by the names of their files."""

    figure: Figure
    numbers: pd.DataFrame
    others: Mapping[str, pd.DataFrame] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyFigure:
    """A figure or table of a study; calling it runs its command.

    `build` gets the study and the options of the command. With a `caption`, the figure is in the report's `section`
    (an id in `report/page.py`), if the study is `asked` about it. `metrics` adds the options `--perplexity NAME` and
    `--accuracy NAME`, and `cost` adds `--cost` with these choices.
    """

    name: str
    heading: str
    build: Callable[[AskedStudy, Namespace], Drawing]
    caption: str = ""
    section: str = ""
    asked: Callable[[AskedStudy], bool] = lambda _: True
    metrics: bool = False
    cost: Sequence[str] = ()

    def of(self, study: AskedStudy) -> Figure:
        """The figure with default options."""
        return self.build(study, self.options()).figure

    def options(self) -> Namespace:
        """The options of the command, as they are without a word."""
        chosen = {"perplexity": None, "accuracy": None} if self.metrics else {}
        return Namespace(**chosen, **({"cost": self.cost[0]} if self.cost else {}))

    def __call__(self) -> None:
        """Run the command."""
        parser = study_arguments(self.heading, out=True)
        if self.metrics:
            every = "default: the mean over all that nearly every cell has"
            parser.add_argument("--perplexity", metavar="NAME", help=f"the corpus, as in ppl/NAME; {every}")
            parser.add_argument("--accuracy", metavar="NAME", help=f"the task, as in acc/NAME; {every}")
        if self.cost:
            parser.add_argument("--cost", choices=self.cost, default=self.cost[0], help="the unit of cost")
        run(self.name, parsed(parser), self.draw)

    def draw(self, study: AskedStudy, given: Namespace) -> list[Path]:
        """Draw the figure of a study and write its files; returns them."""
        return save(self.build(study, given), given.out, self.name, self.heading, study.title)


def once(measure: Callable[Concatenate[AskedStudy, P], T]) -> Callable[Concatenate[AskedStudy, P], T]:
    """Compute a statistic once for a study and options, as figures and sentences of the report share it."""

    @wraps(measure)
    def known(study: AskedStudy, /, *args: P.args, **kwargs: P.kwargs) -> T:
        given = signature(measure).bind(study, *args, **kwargs)
        given.apply_defaults()
        name = f"{measure.__module__}.{measure.__name__}{given.args[1:]}"
        if name not in vars(study):
            vars(study)[name] = measure(study, *args, **kwargs)
        found: T = vars(study)[name]
        return found

    return known


def draw_all(figures: Sequence[StudyFigure]) -> None:
    """Run the commands of all figures, with default options. The study is read once."""
    given = parsed(study_arguments("Every figure and table that the study has data for.", out=True))
    study, read = AskedStudy(given.results, given.study, given.only), list(_study(given.results, given.study))
    failed = []
    for figure in figures:
        try:
            _run(figure.name, Namespace(**vars(given), **vars(figure.options())), figure.draw, study, read)
        except NothingToRead as nothing:
            log.info("no       %s: %s", figure.name, nothing)
        except Exception as error:  # the others are drawn all the same
            failed.append(f"{figure.name} could not be drawn ({type(error).__name__}: {error})")
    end_with([*study.damages, *failed])


def save(drawing: Drawing, out: Path, name: str, title: str = "", provenance: str = "") -> list[Path]:
    """Write a drawing to NAME.png, NAME.pdf, NAME.csv and its other tables to files of their names; returns them.

    The pictures have the title and the provenance in their metadata.
    """
    # The files get no date, so that the same results give the same bytes.
    about: dict[str, dict[str, str | None]] = {
        "png": {"Software": None, "Title": title, "Description": provenance},
        "pdf": {"CreationDate": None, "Title": title, "Subject": provenance},
    }
    for ending, metadata in about.items():
        stream = io.BytesIO()
        drawing.figure.savefig(stream, format=ending, metadata=metadata)
        write_bytes(out / f"{name}.{ending}", stream.getvalue())
        drawing.figure.set_layout_engine("none")  # the second picture is laid out as the first
    tables = {name: drawing.numbers, **drawing.others}
    for file, table in tables.items():
        write_text(out / f"{file}.csv", table.to_csv(index=False))
    return [out / f"{name}.png", out / f"{name}.pdf", *(out / f"{file}.csv" for file in tables)]


def study_arguments(about: str, out: bool) -> argparse.ArgumentParser:
    """A parser of `--results DIR --study NAME --only COLUMN=VALUES`, and of `--out DIR`."""
    parser = argparse.ArgumentParser(description=about)
    where = "a results folder, an archive (*.tar.xz), or an MLflow store: sqlite:///FILE, http://HOST:PORT"
    parser.add_argument("--results", default="results", type=expanded, help=where)
    parser.add_argument("--study", help="use the cells of this study only; default: all cells")
    kept = "use only cells that have one of these values; may be repeated, also with one column"
    form = "COLUMN=VALUE,VALUE"
    parser.add_argument("--only", type=filter_column, action="append", default=[], metavar=form, help=kept)
    if out:
        home = "the folder to write to; default: RESULTS/figures, or figures for a store or archive"
        parser.add_argument("--out", type=lambda text: Path(text).expanduser(), help=home)
    return parser


def parsed(parser: argparse.ArgumentParser) -> Namespace:
    """The arguments of a command. Also sets the style of the figures, and the form of the log."""
    given = parser.parse_args()
    given.only = merged(given.only)
    if hasattr(given, "out"):
        home = Path() if is_store(given.results) else Path(given.results)
        given.out = given.out or home / "figures" / subfolder(given.only)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger(__name__.partition(".figures")[0]).setLevel(logging.INFO)
    use_style()
    return given


def run(name: str, given: Namespace, draw: Callable[[AskedStudy, Namespace], list[Path]]) -> None:
    """Draw NAME, unless its inputs and files are those of the last run.

    `draw` returns the files that it wrote, the one to look at first. If files of the study are damaged, `draw` uses
    what can be read; then this function names the files and ends the command with exit code 1.
    """
    read = list(_study(given.results, given.study))
    end_with(_run(name, given, draw, AskedStudy(given.results, given.study, given.only), read))


def _run(
    name: str,
    given: Namespace,
    draw: Callable[[AskedStudy, Namespace], list[Path]],
    study: AskedStudy,
    read: Sequence[str],
) -> list[str]:
    """As `run`, for a study whose files are `read`, a line for each; returns its damages."""
    inputs = _inputs(given, read)
    files, damages = _recorded(given.out, name, inputs)
    unchanged = " (unchanged)" if files else ""
    if not files:
        _check_out(given.out)
        files, damages = draw(study, given), study.damages
        digests = {path.name: file_sha256(path) for path in files}
        record = {"inputs": inputs, "files": digests, "damages": damages}
        storage.write_json(given.out / FOLDER / f"{name}.json", record)
    kind = "report" if files[0].suffix == ".html" else "figure"
    log.info("%-8s %s%s", kind, files[0].resolve(), unchanged)
    return damages


def end_with(damages: Sequence[str]) -> None:
    """Name what is wrong, if there is anything, and end the command with exit code 1."""
    for damage in damages:
        log.warning("damaged  %s", damage)
    if damages:
        raise SystemExit(1)


def _check_out(out: Path) -> None:
    """Raise NothingToRead if no file can be written to `out`. This is checked before anything is computed."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        is_file = isinstance(error, FileExistsError | NotADirectoryError)
        reason = "there is a file in its place" if is_file else error.strerror
        message = f"the folder {out} cannot be written ({reason}): choose another with --out DIR."
        raise NothingToRead(message) from error


# Whether a figure must be drawn again: a record beside the files has the digests of its inputs and of the files.
#
# Inputs are the study's files, the flags of the command, the code of the analysis, and the versions of the libraries
# that compute and draw. The record of the figure NAME is `.drawn/NAME.json` in the folder of the figures.

FOLDER = ".drawn"
LIBRARIES = ("jinja2", "matplotlib", "numpy", "pandas", "scipy")
CODE = (".py", ".css", ".js", ".j2", ".csv", ".mplstyle")


def _recorded(out: Path, name: str, inputs: str) -> tuple[list[Path], list[str]]:
    """The files that were drawn from these inputs, and the damages then; no files if one of them has changed."""
    try:
        record = storage.read_json(out / FOLDER / f"{name}.json")
        files = {out / file: sha256 for file, sha256 in record["files"].items()}
        if record["inputs"] != inputs or any(file_sha256(path) != digest for path, digest in files.items()):
            return [], []
        return list(files), list(record["damages"])
    except (DamagedError, OSError, KeyError, TypeError, AttributeError):
        return [], []


def _inputs(given: Namespace, read: Sequence[str]) -> str:
    """The digest of everything that decides what is drawn."""
    flags = {name: value for name, value in vars(given).items() if name not in ("results", "out")}
    parts = [json.dumps(flags, sort_keys=True), platform.python_version()]
    parts += [f"{name} {version(name)}" for name in LIBRARIES]
    parts += [*_code(), *read]
    return text_sha256("\n".join(parts))


def _code() -> Iterator[str]:
    """A line for each file of the analysis, and for those of `pruning.core`, which reads the results."""
    for root in (Path(__file__).parents[1], Path(storage.__file__).parent):
        yield from (_line(path, root) for path in sorted(root.rglob("*")) if path.suffix in CODE)


def _study(results: str, study: str | None) -> Iterator[str]:
    """A line for each file that is read. Paths are relative, so a study that moves is not drawn again.

    Raises NothingToRead if the study cannot be read.
    """
    if is_archive(results) and Path(results).is_file():
        yield file_sha256(Path(results))
        return
    root = folder(results)
    keys = cells_of(root, study)
    yield str(study)
    if study is not None:
        yield _line(records.path_of(root, study), root)
    yield from (_line(path, root) for path in sorted(root.glob(ROUTING)))
    beside = set()
    for key in keys:
        yield from (_line(root / key / name, root) for name in (NAME, TRACE, LOG))
        beside |= {*side_files(root, key)}
    yield from (_line(path, root) for path in sorted(beside))


def _line(path: Path, root: Path) -> str:
    try:
        return f"{path.relative_to(root)} {file_sha256(path)}"
    except OSError as error:
        return f"{path.relative_to(root)} {type(error).__name__}"
