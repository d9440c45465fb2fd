"""Whether a figure must be drawn again: a record beside the files has the digests of its inputs and of the files.

Inputs are the study's files, the flags of the command, the code of the analysis, and the versions of the libraries
that compute and draw. The record of the figure NAME is `.drawn/NAME.json` in the folder of the figures.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from pruning.core import atomic_files, study_list
from pruning.core.errors import DamagedError
from pruning.core.hashing import file_sha256, text_sha256
from pruning.core.result import LOG, NAME
from pruning.core.trace import NAME as TRACE

from ..data.load import cells_of
from ..data.mlflow_store import folder, is_archive
from ..data.side_files import ROUTING, side_files

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


def inputs(given: argparse.Namespace) -> str:
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
        yield _line(study_list.path_of(root, study), root)
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
    for root in (Path(__file__).parents[1], Path(atomic_files.__file__).parent):
        yield from (_line(path, root) for path in sorted(root.rglob("*")) if path.suffix in CODE)


def read(out: Path, name: str, digest: str) -> Record | None:
    """What was drawn from inputs with this digest; None if nothing was, or if a file of it has changed since."""
    try:
        data = atomic_files.read_json(out / FOLDER / f"{name}.json")
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
    atomic_files.write_json(out / FOLDER / f"{name}.json", record)
    return Record(files[0], list(damages))
