"""The record of `depth-pruning compare`: one row for each model, and the table that shows them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pruning.core import storage
from pruning.core.records import SpreadRecord, error_of, kind_of, label_of, metrics_among
from pruning.core.units import bytes_text, rate_text

NAME = "compared.json"


@dataclass(frozen=True)
class ModelRow:
    """What was measured of one model.

    `metrics` are those of `eval=`. `changes` has, for each metric that can be compared, the difference to the first
    model with its standard error, and both as text. `bits` has, for each perplexity, bits per byte of its text, with
    the standard error and the paired difference. `prefill` and `decode` are tokens per second. `disk` is the size of
    the weight files in bytes. `other_tokens` names the perplexities whose texts the model splits into other tokens
    than the first model does; only their bits per byte can be compared.
    """

    name: str
    place: str
    revision: str
    dtype: str
    metrics: dict[str, float]
    changes: dict[str, dict[str, Any]]
    bits: dict[str, dict[str, Any]]
    prefill: SpreadRecord
    decode: SpreadRecord
    parameters: int
    disk: int
    memory: int | None
    other_tokens: list[str]


@dataclass(frozen=True)
class ModelTable:
    """The rows of all models, and how they were measured. All models are compared with the first one."""

    rows: list[ModelRow]
    evaluation: dict[str, Any]  # the settings of eval
    speed: dict[str, Any]  # the device, and the shape of what was timed
    notes: list[str]

    def write(self, folder: Path) -> None:
        """Write the record into a folder."""
        storage.write_record(folder / NAME, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> ModelTable:
        """The record in a folder. Raises DamagedError if it is damaged."""
        data = storage.read_json(folder / NAME)
        return cls(**{**data, "rows": [ModelRow(**row) for row in data["rows"]]})

    def columns(self) -> dict[str, list[str]]:
        """The columns of the table, without the names of the models: the entries of all models, by heading."""
        first, rows = self.rows[0], self.rows
        columns: dict[str, list[str]] = {}
        for metric in metrics_among(first.metrics):
            text = metric.partition("/")[2]
            columns[f"{text} {label_of(metric)}"] = [_metric(row, metric) for row in rows]
            if metric in first.bits:
                columns[f"{text} bits/byte"] = [_bits(**row.bits[metric]) for row in rows]
        for heading, stage in (("prompt tokens/s", "prefill"), ("new tokens/s", "decode")):
            speeds = [getattr(row, stage)["median"] for row in rows]
            columns[heading] = [f"{rate_text(speed)}, {speed / speeds[0]:.2f}x" for speed in speeds]
        columns["parameters"] = [f"{row.parameters:,}" for row in rows]
        columns["on disk"] = [bytes_text(row.disk) for row in rows]
        columns["peak memory"] = ["-" if row.memory is None else bytes_text(row.memory) for row in rows]
        return columns


def _metric(row: ModelRow, metric: str) -> str:
    """A metric as text, with its difference to the first model; for the first model, with its standard error."""
    if metric in row.other_tokens:
        return "-"
    decimals = 2 if kind_of(metric).endswith("ppl") else 3
    value = f"{row.metrics[metric]:.{decimals}f}"
    if metric in row.changes:
        return f"{value}, {row.changes[metric]['text']}"
    error = row.metrics.get(error_of(metric))
    return value if error is None else f"{value} ± {error:.{decimals}f}"


def _bits(
    value: float, error: float | None, difference: float | None = None, difference_error: float | None = None
) -> str:
    """Bits per byte as text, in the form of `_metric`."""
    text, spread = f"{value:.3f}", error
    if difference is not None:
        text, spread = f"{text}, {difference:+.3f}", difference_error
    return text if spread is None else f"{text} ± {spread:.3f}"
