"""Evaluations: what is measured on a mask, once it is chosen, and on the dense model. One a file.

An evaluation is a frozen dataclass of settings. Its data are drawn before anything expensive starts, so that they can
be compared with the calibration data; each of them is measured on its own, so that what is known of a mask is kept
even if the next measurement fails. torch, lm-eval and the like are imported where something is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pruning.core.hashing import file_sha256

if TYPE_CHECKING:
    from pruning.calibration.samples import Samples
    from pruning.core.mask import Mask
    from pruning.engine.forward import Forward


class Data(Protocol):
    """What one metric is measured on: text windows or items (`Samples`), documents of a task, or nothing."""

    @property
    def source(self) -> str:
        """Where it comes from, for people."""
        ...

    @property
    def sha256(self) -> str:
        """Equal digests mean equal measurements of a mask: of the very tokens, or of prompts, answers and metric."""
        ...

    def shared(self, calibration: Samples, /) -> int:
        """How many pieces of text or items stand in the calibration data too."""
        ...


@dataclass(frozen=True)
class Measured:
    """What came out for one mask: a metric, `<name>/stderr` its standard error, and how they were measured.

    `files` are kept beside the measurement; their names are endings.
    """

    metrics: dict[str, Any]
    how: dict[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


class Evaluation(Protocol):
    """What every evaluation offers."""

    compares: ClassVar[bool]  # it measures a mask against the dense model in one go, not each by itself
    averages: ClassVar[bool]  # its accuracies are so many of one kind that their mean is a metric too

    @property
    def allow_overlap(self) -> bool:
        """Whether data that the calibration shares are measured all the same."""
        ...

    def files(self) -> Sequence[str]:
        """The local files that are read."""
        ...

    def data(self, tokenizer: Any) -> Mapping[str, Data]:
        """The data by the metric that is measured on them.

        Raises InputError for settings or files that are wrong, UnreachableError where a data set cannot be had.
        """
        ...

    def measure(self, forward: Forward, name: str, data: Data, mask: Mask) -> Measured:
        """The metric `name` of a mask, on its data; `forward.scales` are the compensating factors."""
        ...


def digests_of(paths: Sequence[str]) -> dict[str, str | None]:
    """The SHA-256 of files, by the paths that were given; None where there is no file any more."""
    return {path: _digest(Path(path).expanduser()) for path in paths}


def _digest(file: Path) -> str | None:
    try:
        return file_sha256(file)
    except OSError:
        return None
