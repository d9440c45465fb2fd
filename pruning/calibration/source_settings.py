"""The settings of a calibration that locate its data."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Source(Protocol):
    """The settings that every source needs."""

    @property
    def source(self) -> str: ...  # noqa: D102 - documented in the classes of settings
    @property
    def path(self) -> str | None: ...  # noqa: D102
    @property
    def split(self) -> str: ...  # noqa: D102
    @property
    def revision(self) -> str | None: ...  # noqa: D102
    @property
    def part(self) -> str: ...  # noqa: D102


class TextSource(Source, Protocol):
    """The settings that a text source needs."""

    @property
    def name(self) -> str | None: ...  # noqa: D102
    @property
    def column(self) -> str: ...  # noqa: D102
    @property
    def stream(self) -> bool: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102


def is_local(settings: Source) -> bool:
    """Whether `path` is a local file, not the name of a data set."""
    return settings.source == "file" or bool(settings.path and Path(settings.path).expanduser().is_file())


def hub_errors() -> tuple[type[Exception], ...]:
    """The exceptions that `datasets` raises if a data set cannot be reached or read."""
    from datasets.exceptions import DatasetsError

    return (DatasetsError, OSError, ValueError, RuntimeError)
