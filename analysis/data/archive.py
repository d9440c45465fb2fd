"""The files of a study as one archive: figures can be drawn from it, and the study goes on from it elsewhere.

python -m analysis.archive pack results small small.tar.xz       what cells, searches and measurements have left
python -m analysis.archive unpack small.tar.xz results           what is already in the folder stays as it is

`--results small.tar.xz` is understood wherever a results folder is. Left out are logs, the tracker's store, figures
and what lm-eval wrote; the exact samples are kept, so that every loss can be computed again.
"""

from __future__ import annotations

import io
import logging
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pruning.core import study_list
from pruning.core.result import NAME

CELL = ("result.json", "config.yaml", "mask.json", "trace.jsonl", "gates.json")
SUFFIX = ".tar.xz"

log = logging.getLogger(__name__)


def pack(results: Path, study: str, archive: Path) -> int:
    """Write a study's files; returns the number of its cells that are done. Equal files give equal bytes."""
    listed = study_list.read_study(results, study)
    finished = [cell for cell in listed if (results / cell / NAME).exists()]
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:xz", preset=9) as tar:
        for path in sorted({*_shared(results, study), *_files(results, listed)}):
            # Where the folder lies is nobody's business elsewhere, and no part of what was found.
            content = path.read_bytes().replace(bytes(results.resolve()), b"results")
            tar.addfile(_plain(str(path.relative_to(results)), len(content)), io.BytesIO(content))
    return len(finished)


def unpack(archive: Path, results: Path) -> int:
    """Lay an archive's files out in a results folder; returns how many were not there yet."""
    written = 0
    with tarfile.open(archive) as tar:
        for member in tar:
            name = PurePosixPath(member.name)
            if not member.isfile() or name.is_absolute() or ".." in name.parts:
                raise ValueError(f"{archive}: {member.name} is no file of a results folder.")
            target = results / name
            source = tar.extractfile(member)
            if target.exists() or source is None:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read())
            written += 1
    return written


def _files(results: Path, cells: list[str]) -> Iterator[Path]:
    """Those of the cells, unfinished ones included: what they have paid for is not paid again."""
    for cell in cells:
        yield from (path for name in CELL if (path := results / cell / name).exists())


def _shared(results: Path, study: str) -> Iterator[Path]:
    """Those that cells have in common."""
    yield study_list.path_of(results, study)
    yield from (path for path in (results / "scores").rglob("*") if path.is_file())
    measured = (results / "evaluation").rglob("*.json")
    yield from (path for path in measured if not path.name.endswith(".lm_eval.json"))
    yield from (results / "calibration").rglob("*.jsonl")


def _plain(name: str, size: int) -> tarfile.TarInfo:
    """Without what differs from machine to machine: times and owners."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member


def main() -> None:
    """Pack or unpack, and say how much."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    match sys.argv[1:]:
        case ["pack", results, study, archive]:
            done = pack(Path(results), study, Path(archive))
            log.info("%s: %d finished cells, %.1f MB", archive, done, Path(archive).stat().st_size / 1e6)
        case ["unpack", archive, results]:
            log.info("%s: %d files were new", results, unpack(Path(archive), Path(results)))
        case _:
            sys.exit(__doc__)
