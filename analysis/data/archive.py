"""Pack studies into one archive, to draw figures from or to resume on another machine.

depth-pruning archive pack results small small.tar.xz       pack the files of cells, searches and measurements
depth-pruning archive pack results one,two both.tar.xz      several studies; files that they share are packed once
depth-pruning archive unpack small.tar.xz results           unpack; existing files are not overwritten

The analysis commands accept `--results small.tar.xz` in place of a results folder. The archive omits logs,
the tracker's store, figures, healed weights, lm-eval's own files, and files that only other studies use. In a
finished cell's journal, a score's loss per sample keeps about six digits, and partial scores keep none. The
archive has the exact samples, so every loss of a search can be recomputed.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import lzma
import os
import re
import tarfile
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from filecmp import cmp
from functools import cache
from pathlib import Path
from typing import IO, Any

from pruning.core import records, scoring
from pruning.core.errors import DamagedError, InputError, unknown
from pruning.core.records import NAME, TERMS, texts
from pruning.core.storage import SEAL, read_json, sealed, staged
from pruning.core.units import MEBIBYTE

SUFFIX = ".tar.xz"
DIGITS = 6  # significant digits of a term, unless its loss needs more
NEAR = 9e-7  # the largest error of a term, as a fraction of the loss; readers of journals allow 1e-6

log = logging.getLogger(__name__)


class NothingToRead(SystemExit):
    """The requested cells or measurements do not exist or cannot be read. The message says why and what to do."""


# The names that an archive may contain: those of data files in a results folder.
#
# All other names are refused, because jobs run the files in `code/`, and pickles in `jobs/` can run any code.

_CELL_FILES = (NAME, "config.yaml", "mask.json", scoring.NAME, scoring.FLOAT32, scoring.BOUNDS, "gates.json")
_FOLDERS = (  # in a results folder, but not cells
    "calibration", "code", "evaluation", "figures", "jobs", "mlflow-artifacts", "multirun", "routing", "scores",
    "studies",
)  # fmt: skip
_PART = r"(?!\.+(?:/|$))[\w.+-]+"
_CELL = rf"(?!(?:{'|'.join(_FOLDERS)})/){_PART}"
_DATA = re.compile(
    "|".join(
        [
            rf"studies/{_PART}\.json",
            rf"calibration/{_PART}\.jsonl",
            rf"scores/{_PART}/{_PART}",
            rf"evaluation/{_PART}/{_PART}(?<!\.lm_eval)\.json",  # lm-eval's record can have local paths
            rf"routing/{_PART}/routing\.json",
            rf"{_CELL}/(?:{'|'.join(map(re.escape, _CELL_FILES))})",
            rf"{_CELL}/healed/(?:rates|trials)-{_PART}\.jsonl",
            rf"{_CELL}/healed/(?:mask-{_PART}/)?{_PART}/(?:heal\.jsonl?|evaluation\.json)",  # without weights
        ]
    )
)


def is_data(name: str) -> bool:
    """Whether `name`, a path relative to a results folder, is the path of a data file."""
    return _DATA.fullmatch(name) is not None


# Pack.


def pack(results: Path, studies: Sequence[str], archive: Path) -> int:
    """Pack the files of `studies` and return the number of finished cells. Equal files give equal archives.

    An existing archive is replaced only when the new one is complete. Raises InputError if a study does not exist,
    if a file cannot be read, or if the archive cannot be written; DamagedError if a record is damaged.
    """
    if not results.is_dir():
        raise InputError(f"there is no results folder {results}: give the folder of paths.results.")
    known = records.names(results)
    if missing := [study for study in studies if study not in known]:
        raise unknown(f"study in {results}:", missing[0], known)
    if not is_archive(archive):
        raise InputError(
            f"{archive} does not end in {SUFFIX}: the analysis commands know archives by that ending."
        )
    if archive.exists() and not archive.is_file():
        raise InputError(f"{archive} is not a file: give the archive another name.")
    cells: dict[str, None] = {}
    for study in studies:
        listed = records.read_study(results, study)
        if strange := [cell for cell in listed if not is_data(f"{cell}/{NAME}")]:
            raise DamagedError(
                f"{records.path_of(results, study)} is damaged ({strange[0]!r} is not a cell's key): move it away, "
                "and run the study's command again."
            )
        cells |= dict.fromkeys(listed)
    # Files of unfinished cells are included, so that these can be resumed.
    own = [path for cell in cells for name in _CELL_FILES if (path := results / cell / name).exists()]
    own += [path for cell in cells for path in (results / cell / "healed").rglob("*.json*")]
    lists = [records.path_of(results, study) for study in studies]
    try:
        with staged(archive) as scratch:
            _write(results, {*lists, *own, *_shared(results, cells, own)}, scratch / archive.name)
            (scratch / archive.name).replace(archive)
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise InputError(
            f"{archive} was not packed ({reason}): check the permissions and the free space."
        ) from error
    return sum((results / cell / NAME).exists() for cell in cells)


def _shared(results: Path, cells: Collection[str], own: Iterable[Path]) -> Iterator[Path]:
    """The paths of the scores, measurements and samples that `cells` use, and of all records of routing."""
    named = {text for path in own if path.suffix == ".json" for _, text in texts(_json(path))}
    yield from (path for path in (results / "scores").glob("*/*") if path.name in cells)
    for path in (results / "evaluation").rglob("*.json"):
        if path.relative_to(results).as_posix().replace(f".{TERMS}", ".json") in named:
            yield path
    yield from (path for path in (results / "calibration").glob("*.jsonl") if path.stem in named)
    yield from (results / "routing").glob("*/routing.json")


def _json(path: Path) -> Any:
    """The JSON value of a file; None if the file is damaged. A damaged file is packed unchanged."""
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return None


def _write(results: Path, paths: set[Path], archive: Path) -> None:
    for place in sorted({p for path in paths for p in (path, *path.parents) if results in p.parents}):
        if place.is_symlink():
            raise InputError(
                f"{place} is a symbolic link, and an archive holds only files of the results folder: replace the "
                "link by what it leads to, or remove it."
            )
    smallest = 9 | lzma.PRESET_EXTREME
    with lzma.open(archive, "wb", preset=smallest) as stream, tarfile.open(fileobj=stream, mode="w") as tar:
        for path in sorted(paths):
            if is_data(name := path.relative_to(results).as_posix()):
                content = _portable(path, results)
                member = tarfile.TarInfo(name)  # without times and owners, which differ between machines
                member.size, member.mode = len(content), 0o644
                tar.addfile(member, io.BytesIO(content))


def _portable(path: Path, results: Path) -> bytes:
    """The content of a file. The absolute path of the results folder, which is private, is replaced by `results`.

    If this changes a record, the record gets a new seal. Raises DamagedError if the old seal did not match.
    """
    content = path.read_bytes()
    if path.name == scoring.NAME and (path.parent / NAME).exists():
        content = b"".join(map(_shorter, content.splitlines(keepends=True)))
    changed = content.replace(bytes(results.resolve()), b"results")
    if changed == content or path.suffix != ".json" or SEAL.encode() not in content:
        return changed
    read_json(path)
    return json.dumps(sealed(json.loads(changed)), indent=2, ensure_ascii=False).encode() + b"\n"


def _shorter(line: bytes) -> bytes:
    """A journal's line, shortened as archives store it (`_short`). A damaged line is returned unchanged."""
    try:
        return json.dumps(_short(json.loads(line))).encode() + b"\n"
    except (KeyError, TypeError, ValueError):
        return line


def _short(score: dict[str, Any]) -> dict[str, Any]:
    """The score, with losses per sample rounded by at most NEAR times its loss; a partial score keeps none."""
    loss, terms = score["loss"], score["samples"]
    if "of" in score:
        return score | {"loss": _rounded(loss, DIGITS), "samples": [], "scored": scoring.scored(score)}
    short = terms
    for digits in range(DIGITS, 18):
        short = [_rounded(term, digits) for term in terms]
        if all(abs(new - term) <= NEAR * abs(loss) for new, term in zip(short, terms, strict=True)):
            break
    return score | {"samples": short}


def _rounded(number: float, digits: int) -> float:
    return float(f"{number:.{digits}g}")


# Unpack an archive into a results folder. The whole archive is checked before any file is put in place.
#
# First the size of the content is measured, and the checksum is verified. Then the files are unpacked into a hidden
# folder inside the results folder, which is on the same disk, and each file is moved to its place in one step. If the
# program is killed meanwhile, the files in place are complete, and unpacking again adds the others.

# Archives of the studies in this repository unpack to 8 to 70 times their size.
MULTIPLE, LARGEST = 500, 20_000_000_000  # a larger archive, as a multiple of its size or in bytes, is refused
SHOWN = 5  # a message lists at most this number of names


def unpack(archive: Path, results: Path) -> int:
    """Unpack an archive into a results folder and return the number of new files.

    Existing files are kept; a warning names those that differ, except `*.jsonl` files. Raises InputError
    if the archive cannot be read, is damaged, unpacks to more than `MULTIPLE` times its size or `LARGEST` bytes, or
    contains anything but data of a study; also if the results folder cannot be written, or has a link in place of a
    folder.
    """
    new = not results.exists()
    try:
        stream = archive.open("rb")
    except OSError as error:
        cure = "give an archive that `depth-pruning archive pack` wrote"
        raise InputError(f"{archive} cannot be read ({error.strerror}): {cure}.") from error
    try:
        with stream:
            _check_size(archive, stream)
        with tarfile.open(archive, mode="r:xz") as tar, staged(results / "unpacked") as scratch:
            names = _extract(archive, tar, scratch)
            for inside in sorted({parent for name in names for parent in Path(name).parents} - {Path()}):
                if (folder := results / inside).is_symlink() or (folder.exists() and not folder.is_dir()):
                    raise InputError(
                        f"{folder} is a link or a file, and files are unpacked into real folders only: move it "
                        "away, or unpack into another folder. Nothing was unpacked."
                    )
            return _put(scratch, results, names)
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise InputError(
            f"{archive} is damaged, or `depth-pruning archive pack` did not write it: copy or pack it again. "
            "Nothing was unpacked."
        ) from error
    except OSError as error:
        raise InputError(
            f"{results} cannot be written ({error.strerror or error}): choose another folder, or free some space."
        ) from error
    finally:
        if new:
            with suppress(OSError):  # the folder is removed only if it is still empty
                results.rmdir()


def _check_size(archive: Path, stream: IO[bytes]) -> None:
    """Decompress an archive without keeping anything; raises InputError if it is too large, and checks its checksum.

    Memory and disk are not filled, however large the archive is when unpacked.
    """
    packed, size = os.fstat(stream.fileno()).st_size, 0
    limit = min(MULTIPLE * packed, LARGEST)
    with lzma.open(stream) as content:
        while part := content.read(MEBIBYTE):
            size += len(part)
            if size > limit:
                raise InputError(
                    f"{archive} has {packed:,} bytes and unpacks to more than {limit:,}, so `pack` did not write it: "
                    f"at most {MULTIPLE} times an archive's size and {LARGEST:,} bytes are unpacked. Nothing was "
                    "unpacked: do not use this archive."
                )


def _extract(archive: Path, tar: tarfile.TarFile, scratch: Path) -> set[str]:
    """Write the files of an archive into `scratch`, and return their names."""
    names: set[str] = set()
    for member in tar:
        # A sparse file would be larger than the data that the archive has for it.
        if not member.isreg() or member.issparse() or member.name in names or not is_data(member.name):
            raise InputError(
                f"{archive} holds {member.name!r}, which does not belong to a study, so `pack` did not "
                "write it. Nothing was unpacked: do not use this archive."
            )
        tar.extract(member, scratch, set_attrs=False, filter="data")
        names.add(member.name)
    return names


def _put(scratch: Path, results: Path, names: Collection[str]) -> int:
    """Move each file to its place unless a file is there already; return the number of new files.

    A `result.json` marks its cell as finished, so it is moved after all other files except lists of studies.
    """
    new, kept = 0, []
    for name in sorted(names, key=lambda n: (n.startswith("studies/"), n.endswith(f"/{NAME}"), n)):
        target = results / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(target):
            (scratch / name).rename(target)
            new += 1
        elif target.suffix != ".jsonl" and (  # a journal may have grown
            target.is_symlink() or not target.is_file() or not cmp(target, scratch / name, shallow=False)
        ):
            kept.append(name)
    if kept:
        log.warning(
            "%s: %d files differ from the archive and were kept: %s%s. To take the archive's, remove them and unpack "
            "again.", results, len(kept), ", ".join(kept[:SHOWN]), ", ..." if len(kept) > SHOWN else "",
        )  # fmt: skip
    return new


# An archive as a temporary results folder, so that figures can be drawn from it.

_folders: list[tempfile.TemporaryDirectory[str]] = []  # deleted when the program ends


def is_archive(results: Path) -> bool:
    """Whether the name of the path `results` has the suffix that `pack` requires for archives."""
    return results.name.endswith(SUFFIX)


@cache
def folder(results: Path) -> Path:
    """The results folder itself, or a temporary folder with the contents of an archive.

    Raises NothingToRead if the archive cannot be read.
    """
    if not is_archive(results):
        return results
    _folders.append(tempfile.TemporaryDirectory(prefix="depth-pruning-"))
    target = Path(_folders[-1].name)
    try:
        unpack(results, target)
    except InputError as error:
        raise NothingToRead(str(error)) from error
    return target


def main() -> None:
    """Run the command, and log how many finished cells were packed or how many new files were unpacked."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    explained: Any = {"description": __doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(**explained)
    actions = parser.add_subparsers(dest="action", required=True)
    packing = actions.add_parser("pack", help="write studies into one archive", **explained)
    unpacking = actions.add_parser("unpack", help="write an archive into a results folder", **explained)
    helps = {"results": "a results folder", "study": "studies: A or A,B", "archive": f"NAME{SUFFIX}"}
    for action, names in ((packing, ("results", "study", "archive")), (unpacking, ("archive", "results"))):
        for name in names:
            kind = str if name == "study" else lambda text: Path(text).expanduser()
            action.add_argument(name, type=kind, help=helps[name])
    asked = parser.parse_args()
    if asked.action == "pack":
        done = pack(asked.results, asked.study.split(","), asked.archive)
        log.info("%s: %d finished cells, %.1f MB", asked.archive, done, asked.archive.stat().st_size / 1e6)
    else:
        log.info("%s: %d files were new", asked.results, unpack(asked.archive, asked.results))
