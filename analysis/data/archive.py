"""Pack the files of a study into one archive. Figures can be drawn from it, and another machine can resume from it.

python -m analysis.archive pack results small small.tar.xz       pack the files of cells, searches and measurements
python -m analysis.archive unpack small.tar.xz results           unpack; existing files are not overwritten

The analysis commands accept `--results small.tar.xz` in place of a results folder. The archive omits logs, the
tracker's store, figures and lm-eval's own files. It keeps the exact samples, so that every loss can be recomputed.
"""

from __future__ import annotations

import argparse
import io
import logging
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pruning.core import study_list
from pruning.core.result import NAME

CELL = ("result.json", "config.yaml", "mask.json", "trace.jsonl", "gates.json")
SUFFIX = ".tar.xz"

log = logging.getLogger(__name__)


def pack(results: Path, study: str, archive: Path) -> int:
    """Pack a study's files and return its number of finished cells. Equal files give an identical archive."""
    listed = study_list.read_study(results, study)
    finished = [cell for cell in listed if (results / cell / NAME).exists()]
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:xz", preset=9) as tar:
        for path in sorted({*_shared(results, study), *_files(results, listed)}):
            # Files can contain the absolute path of the results folder. This path is private, so it is replaced.
            content = path.read_bytes().replace(bytes(results.resolve()), b"results")
            tar.addfile(_plain(str(path.relative_to(results)), len(content)), io.BytesIO(content))
    return len(finished)


def unpack(archive: Path, results: Path) -> int:
    """Unpack an archive into a results folder and return the number of new files. Existing files are kept."""
    written = 0
    with tarfile.open(archive) as tar:
        for member in tar:
            name = PurePosixPath(member.name)
            if not member.isfile() or name.is_absolute() or ".." in name.parts:
                raise ValueError(
                    f"{archive}: {member.name} is not a path inside a results folder, so `pack` did not write it."
                )
            target = results / name
            source = tar.extractfile(member)
            if target.exists() or source is None:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read())
            written += 1
    return written


def _files(results: Path, cells: list[str]) -> Iterator[Path]:
    """The files of all cells. Those of unfinished cells are included, so that their scores are not computed again."""
    for cell in cells:
        yield from (path for name in CELL if (path := results / cell / name).exists())


def _shared(results: Path, study: str) -> Iterator[Path]:
    """The files that cells share: the study's list of cells, scores, measurements and samples."""
    yield study_list.path_of(results, study)
    yield from (path for path in (results / "scores").rglob("*") if path.is_file())
    measured = (results / "evaluation").rglob("*.json")
    yield from (path for path in measured if not path.name.endswith(".lm_eval.json"))
    yield from (results / "calibration").rglob("*.jsonl")


def _plain(name: str, size: int) -> tarfile.TarInfo:
    """An entry without times and owners, which differ between machines."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member


def main() -> None:
    """Pack or unpack, and log the number of finished cells or of new files."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(
        prog="python -m analysis.archive",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True)
    packing = actions.add_parser("pack", help="write the files of a study into one archive")
    for name, kind in (("results", Path), ("study", str), ("archive", Path)):
        packing.add_argument(name, type=kind)
    unpacking = actions.add_parser("unpack", help="write the files of an archive into a results folder")
    for name in ("archive", "results"):
        unpacking.add_argument(name, type=Path)
    asked = parser.parse_args()
    if asked.action == "pack":
        done = pack(asked.results, asked.study, asked.archive)
        log.info("%s: %d finished cells, %.1f MB", asked.archive, done, asked.archive.stat().st_size / 1e6)
    else:
        log.info("%s: %d files were new", asked.results, unpack(asked.archive, asked.results))
