"""Pack the files of a study into one archive. Figures can be drawn from it, and another machine can resume from it.

python -m analysis.archive pack results small small.tar.xz       pack the files of cells, searches and measurements
python -m analysis.archive unpack small.tar.xz results           unpack; existing files are not overwritten

The analysis commands accept `--results small.tar.xz` in place of a results folder. The archive omits logs, the
tracker's store, figures, healed weights and lm-eval's own files. It keeps the exact samples, so that every loss of a
search can be recomputed.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import logging
import tarfile
from collections.abc import Iterator
from pathlib import Path

from pruning.core import study_list
from pruning.core.atomic_files import SEAL, read_json, sealed
from pruning.core.errors import DamagedError, InputError, unknown
from pruning.core.publish import staged
from pruning.core.result import NAME

from .archive_names import CELL, MANIFEST, is_data
from .unpack import unpack

SUFFIX = ".tar.xz"

log = logging.getLogger(__name__)


def pack(results: Path, study: str, archive: Path) -> int:
    """Pack a study's files and return its number of finished cells. Equal files give an identical archive.

    The last entry holds the digests of the files. An earlier archive of that name is replaced only when the new one
    is complete. Raises InputError if there is no such study, or if a file cannot be read or the archive not written.
    """
    _check(results, study, archive)
    listed = study_list.read_study(results, study)
    if strange := [cell for cell in listed if not is_data(f"{cell}/{NAME}")]:
        raise DamagedError(
            f"{study_list.path_of(results, study)} is damaged ({strange[0]!r} is no cell's key): move it away, and "
            "run the study's command again."
        )
    try:
        with staged(archive) as scratch:
            _write(results, [*_shared(results, study), *_files(results, listed)], scratch / archive.name)
            (scratch / archive.name).replace(archive)
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise InputError(
            f"{archive} was not packed ({reason}): check the permissions and the free space."
        ) from error
    return sum((results / cell / NAME).exists() for cell in listed)


def _check(results: Path, study: str, archive: Path) -> None:
    """Raise InputError if there is nothing to pack, or if the archive's name is unusable."""
    if not results.is_dir():
        raise InputError(f"there is no results folder {results}: give the folder of paths.results.")
    if study not in (known := study_list.names(results)):
        raise unknown(f"study in {results}:", study, known)
    if not archive.name.endswith(SUFFIX):
        raise InputError(
            f"{archive} does not end in {SUFFIX}: the analysis commands know archives by that ending."
        )
    if archive.exists() and not archive.is_file():
        raise InputError(f"{archive} is not a file: give the archive another name.")


def _write(results: Path, paths: list[Path], archive: Path) -> None:
    for path in paths:
        inside = [
            place for place in (path, *path.parents) if place != results and place.is_relative_to(results)
        ]
        if linked := next((place for place in inside if place.is_symlink()), None):
            raise InputError(
                f"{linked} is a symbolic link, and an archive holds only files of the results folder: replace the "
                "link by what it leads to, or remove it."
            )
    digests = {}
    with tarfile.open(archive, "w:xz", preset=9) as tar:
        for path in sorted({path for path in paths if is_data(path.relative_to(results).as_posix())}):
            content = _portable(path, results)
            name = path.relative_to(results).as_posix()
            digests[name] = hashlib.sha256(content).hexdigest()
            tar.addfile(_plain(name, len(content)), io.BytesIO(content))
        content = json.dumps({"sha256": digests}, indent=0).encode()
        tar.addfile(_plain(MANIFEST, len(content)), io.BytesIO(content))


def _portable(path: Path, results: Path) -> bytes:
    """The content of a file, in which the absolute path of the results folder, which is private, is replaced.

    A record gets a new seal. Raises DamagedError if its own does not fit.
    """
    content = path.read_bytes()
    changed = content.replace(bytes(results.resolve()), b"results")
    if changed == content or path.suffix != ".json" or SEAL.encode() not in content:
        return changed
    read_json(path)
    return json.dumps(sealed(json.loads(changed)), indent=2, ensure_ascii=False).encode() + b"\n"


def _files(results: Path, cells: list[str]) -> Iterator[Path]:
    """The files of all cells. Those of unfinished cells are included, so that their scores are not computed again."""
    for cell in cells:
        yield from (path for name in CELL if (path := results / cell / name).exists())
        yield from (results / cell / "healed").rglob("*.json*")


def _shared(results: Path, study: str) -> Iterator[Path]:
    """The files that cells share: the study's list of cells, scores, measurements, samples, records of routing."""
    yield study_list.path_of(results, study)
    yield from (path for path in (results / "scores").rglob("*") if path.is_file())
    yield from (results / "evaluation").rglob("*.json")
    yield from (results / "calibration").rglob("*.jsonl")
    yield from (results / "routing").glob("*/routing.json")


def _plain(name: str, size: int) -> tarfile.TarInfo:
    """An entry without times and owners, which differ between machines."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member


def _path(text: str) -> Path:
    return Path(text).expanduser()


def main() -> None:
    """Pack or unpack, and log the number of finished cells or of new files; on an error, print one sentence."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(
        prog="python -m analysis.archive",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True)
    packing = actions.add_parser("pack", help="write the files of a study into one archive")
    for name, kind in (("results", _path), ("study", str), ("archive", _path)):
        packing.add_argument(name, type=kind)
    unpacking = actions.add_parser("unpack", help="write the files of an archive into a results folder")
    for name in ("archive", "results"):
        unpacking.add_argument(name, type=_path)
    asked = parser.parse_args()
    if asked.action == "pack":
        done = pack(asked.results, asked.study, asked.archive)
        log.info("%s: %d finished cells, %.1f MB", asked.archive, done, asked.archive.stat().st_size / 1e6)
    else:
        log.info("%s: %d files were new", asked.results, unpack(asked.archive, asked.results))
