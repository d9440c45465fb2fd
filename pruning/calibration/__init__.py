"""Calibration data: the text windows or multiple-choice items that an objective uses during a search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pruning.calibration.samples import Samples
from pruning.core.storage import file_sha256


class Calibration(Protocol):
    """The interface of every calibration: settings that draw samples."""

    kind: ClassVar[str]  # "text", "items" or "both"

    def draw(self, tokenizer: Any, prefix: str = "calibration") -> Samples:
        """The samples for a tokenizer. The same settings always give the same samples.

        Error messages put `prefix`, the settings group, before a setting's name.
        """
        ...


LABELLED = "commonsense170k"  # the source whose `path` is a data set or a local copy of its file


def file_of(settings: Any) -> str | None:
    """The path if the settings' source is a local file; else None. A file's identity is its content, not its name."""
    source, path = getattr(settings, "source", None), getattr(settings, "path", None)
    copied = source == LABELLED and path and Path(path).expanduser().is_file()
    return path or "" if source == "file" or copied else None


def files_of(settings: Any) -> tuple[str, ...]:
    """All local files that settings and nested settings name. `FILES` of a class has the names of such fields."""
    if isinstance(settings, Mapping):
        return tuple(file for part in settings.values() for file in files_of(part))
    if not is_dataclass(settings):
        return ()
    own = [] if (file := file_of(settings)) is None else [file]
    own += [file for name in getattr(settings, "FILES", ()) for file in getattr(settings, name).values()]
    return (*own, *(file for part in fields(settings) for file in files_of(getattr(settings, part.name))))


def digests_of(settings: Any) -> dict[str, str | None]:
    """The SHA-256 of each local file in settings, keyed by the path as given; None if unreadable."""
    digests: dict[str, str | None] = {}
    for path in files_of(settings):
        try:
            digests[path] = file_sha256(Path(path).expanduser())
        except OSError:
            digests[path] = None
    return digests


def kinds_for(needs: str) -> tuple[str, ...]:
    """The kinds of samples that fit what an objective needs; "any" means text or items."""
    return ("text", "items") if needs == "any" else (needs,)
