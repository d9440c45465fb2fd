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
    """The measurements of one model."""

    name: str
    place: str
    revision: str
    dtype: str
    metrics: dict[str, float]  # the results of `eval=`
    changes: dict[str, dict[str, Any]]  # by metric: difference from the first model, error, both as text
    bits: dict[str, dict[str, Any]]  # by `ppl` metric: bits per byte, their error, and the paired difference
    prefill: SpreadRecord  # tokens per second
    decode: SpreadRecord
    parameters: int
    disk: int  # bytes of the weight files
    memory: int | None
    other_tokens: list[str]  # perplexity metrics whose texts the first model splits into other tokens


@dataclass(frozen=True)
class ModelTable:
    """The rows of all models, and how the models were measured. The first model is the reference of all others."""

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
        """The table's columns by heading, with one entry per model; there is no column of model names."""
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
    """A metric as text, with its difference from the first model; for the first model, with its standard error."""
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
