"""What reading a source of samples needs to know: the part of a calibration's settings that says where data are."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Source(Protocol):
    """What reading any source needs to know."""

    @property
    def source(self) -> str: ...  # noqa: D102 - the settings' own docstrings say what they mean
    @property
    def path(self) -> str | None: ...  # noqa: D102
    @property
    def split(self) -> str: ...  # noqa: D102
    @property
    def revision(self) -> str | None: ...  # noqa: D102
    @property
    def part(self) -> str: ...  # noqa: D102


class TextSource(Source, Protocol):
    """What reading text needs to know."""

    @property
    def name(self) -> str | None: ...  # noqa: D102
    @property
    def column(self) -> str: ...  # noqa: D102
    @property
    def stream(self) -> bool: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102


def is_local(settings: Source) -> bool:
    """Whether `path` is a local file rather than the name of a data set."""
    return settings.source == "file" or bool(settings.path and Path(settings.path).expanduser().is_file())


def hub_errors() -> tuple[type[Exception], ...]:
    """What `datasets` raises if a data set cannot be reached or read."""
    from datasets.exceptions import DatasetsError

    return (DatasetsError, OSError, ValueError, RuntimeError)
