"""The command line of the figures, the tables and the report. Its arguments select the cells.

`run` draws only what has changed since the last run (see `drawn_before`).
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TypeAlias

from pruning.core import records, storage
from pruning.core.errors import DamagedError
from pruning.core.records import LOG, NAME
from pruning.core.scoring import NAME as TRACE
from pruning.core.storage import file_sha256, text_sha256

from ..data.archive import NothingToRead, expanded, folder, is_archive, is_store
from ..data.load import cells_of, filter_column, merged, subfolder
from ..data.study import ROUTING, AskedStudy, side_files
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
        type=filter_column,
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
    inputs = figure_inputs(given)
    if (record := read(given.out, name, inputs)) is None:
        _check_out(given.out)
        study = AskedStudy(given.results, given.study, given.only)
        files = draw(given, study)
        record = write(given.out, name, inputs, files, study.damages)
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


# Whether a figure must be drawn again: a record beside the files has the digests of its inputs and of the files.
#
# Inputs are the study's files, the flags of the command, the code of the analysis, and the versions of the libraries
# that compute and draw. The record of the figure NAME is `.drawn/NAME.json` in the folder of the figures.

FOLDER = ".drawn"
LIBRARIES = ("jinja2", "matplotlib", "numpy", "pandas", "scipy")
CODE = (".py", ".css", ".js", ".j2", ".csv", ".mplstyle")


@dataclass(frozen=True)
class Record:
    """The files of a figure, and the damaged files of the study it was drawn from."""

    first: Path
    damages: list[str]

    @property
    def kind(self) -> str:
        """`report` or `figure`."""
        return "report" if self.first.suffix == ".html" else "figure"


def figure_inputs(given: argparse.Namespace) -> str:
    """The digest of everything that decides what is drawn. Raises NothingToRead if the study cannot be read."""
    flags = {name: value for name, value in vars(given).items() if name not in ("results", "out")}
    parts = [json.dumps(flags, sort_keys=True), platform.python_version()]
    parts += [f"{name} {version(name)}" for name in LIBRARIES]
    parts += [*_code(), *_study(given.results, given.study)]
    return text_sha256("\n".join(parts))


def _study(results: str, study: str | None) -> Iterator[str]:
    """A line for each file that is read. Paths are relative, so a study that moves is not drawn again."""
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


def _code() -> Iterator[str]:
    """A line for each file of the analysis, and for those of `pruning.core`, which reads the results."""
    for root in (Path(__file__).parents[1], Path(storage.__file__).parent):
        yield from (_line(path, root) for path in sorted(root.rglob("*")) if path.suffix in CODE)


def read(out: Path, name: str, digest: str) -> Record | None:
    """What was drawn from inputs with this digest; None if nothing was, or if a file of it has changed since."""
    try:
        data = storage.read_json(out / FOLDER / f"{name}.json")
        files = {out / file: sha256 for file, sha256 in data["files"].items()}
        if data["inputs"] != digest or any(file_sha256(path) != sha256 for path, sha256 in files.items()):
            return None
        return Record(next(iter(files)), list(data["damages"]))
    except (DamagedError, OSError, KeyError, TypeError, AttributeError, StopIteration):
        return None


def write(out: Path, name: str, digest: str, files: Sequence[Path], damages: Sequence[str]) -> Record:
    """Record what was drawn. `files` are in `out`, the one to look at first."""
    digests = {path.name: file_sha256(path) for path in files}
    record = {"inputs": digest, "files": digests, "damages": list(damages)}
    storage.write_json(out / FOLDER / f"{name}.json", record)
    return Record(files[0], list(damages))
