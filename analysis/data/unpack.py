"""Unpack an archive into a results folder: all of it is checked before the first file is put in place.

The files are unpacked into a hidden folder inside the results folder, which is on the same disk, and compared with
the digests that the archive holds. Then each file is linked to its place in one step. So a kill leaves whole files
only, and unpacking again adds the rest.
"""

from __future__ import annotations

import hashlib
import json
import logging
import lzma
import os
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from pruning.core.errors import InputError
from pruning.core.publish import staged
from pruning.core.units import MEBIBYTE

from .archive_names import MANIFEST, is_data, written_last

SHOWN = 5  # how many names a message lists

log = logging.getLogger(__name__)


def unpack(archive: Path, results: Path) -> int:
    """Unpack an archive into a results folder and return the number of new files.

    Existing files are kept; a warning names those whose content differs from the archive. Raises InputError if the
    archive cannot be read, is damaged or holds anything but data of a study, if a link in the results folder is in
    the way, or if the folder cannot be written.
    """
    new = not results.exists()
    try:
        with _opened(archive) as tar, staged(results / "unpacked") as scratch:
            digests = _extract(archive, tar, scratch)
            _check_folders(results, digests)
            return _put(scratch, results, digests)
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise InputError(
            f"{archive} is damaged, or `python -m analysis.archive pack` did not write it: copy or pack it again. "
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


@contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    """The archive, open for reading. Raises InputError if there is no such file or it cannot be read."""
    if not archive.exists():
        raise InputError(f"there is no archive {archive}: check its path.")
    if not archive.is_file():
        raise InputError(
            f"{archive} is not a file: give an archive that `python -m analysis.archive pack` wrote."
        )
    try:
        stream = archive.open("rb")
    except OSError as error:
        raise InputError(f"{archive} cannot be read ({error.strerror}): change its permissions.") from error
    with stream, tarfile.open(fileobj=stream, mode="r:xz") as tar:
        yield tar


def _extract(archive: Path, tar: tarfile.TarFile, scratch: Path) -> dict[str, str]:
    """Write the files of an archive into `scratch`; returns their SHA-256 by name, without the manifest."""
    digests: dict[str, str] = {}
    manifest: bytes | None = None
    for member in tar:
        source = tar.extractfile(member) if member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) else None
        if source is None or member.name in digests or not (is_data(member.name) or member.name == MANIFEST):
            raise InputError(
                f"{archive} holds {member.name!r}, which is no data of a study, so `pack` did not "
                "write it. Nothing was unpacked: do not use this archive."
            )
        if member.name == MANIFEST:
            manifest = source.read()
        else:
            digests[member.name] = _copy(source, scratch / member.name, member.size)
    while tar.fileobj is not None and tar.fileobj.read(MEBIBYTE):
        pass  # the checksum of the compressed data is verified at its end
    if manifest is not None and _recorded(manifest) != digests:
        raise tarfile.ReadError("files and digests differ")
    return digests


def _copy(source: IO[bytes], target: Path, size: int) -> str:
    """Copy a stream of `size` bytes into a new file; returns the SHA-256. Raises ReadError if bytes are missing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, written = hashlib.sha256(), 0
    with target.open("xb") as stream:
        while piece := source.read(MEBIBYTE):
            digest.update(piece)
            written += stream.write(piece)
    if written != size:
        raise tarfile.ReadError("a file is shorter than its entry says")
    return digest.hexdigest()


def _recorded(manifest: bytes) -> dict[str, str]:
    """The digests in a manifest. Raises ReadError if it is not a manifest."""
    try:
        digests: dict[str, str] = json.loads(manifest)["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise tarfile.ReadError("the manifest is damaged") from error
    return digests


def _check_folders(results: Path, names: Mapping[str, str]) -> None:
    """Raise InputError if a folder that files are to be put in is a link or a file."""
    for name in names:
        folder = results
        for part in Path(name).parent.parts:
            folder /= part
            if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
                what = "a symbolic link" if folder.is_symlink() else "a file"
                raise InputError(
                    f"{folder} is {what}, and files are unpacked into real folders only: move it away, or unpack "
                    "into another folder. Nothing was unpacked."
                )


def _put(scratch: Path, results: Path, digests: Mapping[str, str]) -> int:
    """Put each file in its place unless there is one already; returns the number of new files."""
    new, kept = 0, []
    for name in sorted(digests, key=written_last):
        target = results / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if _link(scratch / name, target):
            new += 1
        elif not _continues(target, scratch / name, digests[name]):
            kept.append(name)
    if kept:
        log.warning(
            "%s: %d files differ from the archive and were kept: %s%s. To take the archive's, remove them and unpack "
            "again.", results, len(kept), ", ".join(kept[:SHOWN]), ", ..." if len(kept) > SHOWN else "",
        )  # fmt: skip
    return new


def _link(source: Path, target: Path) -> bool:
    """Give a file the name `target` in one step unless something has that name; returns whether it was given."""
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError:  # a disk without hard links
        if os.path.lexists(target):
            return False
        source.rename(target)
    return True


def _continues(existing: Path, packed: Path, digest: str) -> bool:
    """Whether an existing file begins with all bytes of the packed one: it is equal, or a journal that grew."""
    if existing.is_symlink() or not existing.is_file():
        return False
    size = packed.stat().st_size
    grown = existing.suffix == ".jsonl" or existing.stat().st_size == size
    with existing.open("rb") as stream:
        return grown and hashlib.sha256(stream.read(size)).hexdigest() == digest
