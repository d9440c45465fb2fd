"""Evaluations: what is measured on the chosen mask and on the dense model.

An evaluation is a frozen dataclass of settings. Its data are drawn before anything expensive starts, so that an
overlap with the calibration data is found early. Each metric is measured separately, so that a measurement is kept
even if the next one fails. torch, lm-eval and other large libraries are imported only when something is measured.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pruning.core.errors import InputError
from pruning.core.records import TERMS
from pruning.core.storage import sealed

if TYPE_CHECKING:
    from pruning.calibration.samples import Samples
    from pruning.core.mask import Mask
    from pruning.engine.forward import Forward

SPEED = "speed"  # a metric whose one measurement covers both the mask and the dense model
TAKEN = ("heldout", "mean", "continuations")  # names in use for the metrics of other evaluations


class Data(Protocol):
    """The data of one metric: text windows or items (`Samples`), a task's documents, or, for `speed`, the device.

    If measuring a mask needs the dense model's output, the data have a method `beside`. It returns a copy
    of the data with this output, which it reads from a file next to the dense model's measurement.
    """

    @property
    def source(self) -> str:
        """Where the data come from, in words for people."""
        ...

    @property
    def sha256(self) -> str:
        """Digest of the exact data. For the same model and mask, equal digests mean equal measurements."""
        ...

    def shared(self, calibration: Samples, /) -> int:
        """The number of text passages or items that are also in the calibration data."""
        ...


@dataclass(frozen=True)
class Measured:
    """The measurement of one mask: `metrics`, with standard errors as `<name>/stderr`, and `how` they were measured.

    `files` maps file name suffixes to contents; the files are written next to the measurement.
    """

    metrics: dict[str, Any]
    how: dict[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


class Evaluation(Protocol):
    """The interface of every evaluation."""

    @property
    def allow_overlap(self) -> bool:
        """Whether data that overlap the calibration data are allowed."""
        ...

    def data(self, tokenizer: Any) -> Mapping[str, Data]:
        """The data of each metric, by the metric's name.

        Raises InputError if a setting or a file is invalid, UnreachableError if a data set cannot be loaded.
        """
        ...

    def measure(self, forward: Forward, name: str, data: Data, mask: Mask) -> Measured:
        """Measure a mask's metric `name` on `data`; the factors `forward.scales` compensate for dropped units."""
        ...


def check_names(setting: str, names: Iterable[str]) -> None:
    """Raise InputError if a name cannot be part of the name of a metric or folder."""
    for name in names:
        if not re.fullmatch(r"\w[\w.+-]*", str(name)) or name in TAKEN:
            raise InputError(
                f"{setting}: {name!r} cannot name a metric: use letters, digits, '.', '_' and '-'; the names "
                f"{', '.join(TAKEN)} are taken."
            )


def terms_file(terms: dict[str, Any]) -> dict[str, bytes]:
    """A file with the values of each sample, by its file name suffix as in `Measured.files`."""
    return {TERMS: json.dumps(sealed(terms)).encode()}


def short(loss: float) -> float:
    """A loss or a log-likelihood, rounded to nine significant digits."""
    return float(f"{float(loss):.9g}")
