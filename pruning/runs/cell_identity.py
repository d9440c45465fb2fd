"""The settings that decide a cell's result: they make its key, and they tell two configurations apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pruning.core.hashing import file_sha256
from pruning.core.nested import leaves
from pruning.core.recorded import OPTION, recorded
from pruning.models.spec import PLACING, same_attention

LOCATING = ("path", "gguf_file", "name")  # settings that a cell's key represents by contents, or not at all
NEW = {
    "disjoint": False,
    "lazy": None,
    "rank": "cost",
    "within": "any",
    "blocks": True,
}  # settings of calibrations and searches that came later, and their defaults
FORMAT = 1  # version of a cell's files and of its losses; increase it if old results must not be reused


def difference(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """The first setting that affects the result of a search and differs between two configurations, or None.

    Settings that only locate files are ignored.
    """
    a, b = (dict(_deciding(config)) for config in (known, wanted))
    return next((key for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)), None)


def _deciding(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for group in ("objective", "algo", "compensation", "protect", "calibration", "model"):
        for name, value in leaves(recorded(config.get(group, {})), f"{group}."):
            last = name.rpartition(".")[2]
            if group in ("algo", "calibration") and (last, value) in NEW.items():
                continue  # results of earlier versions do not have it
            if last not in (OPTION, *LOCATING) and name.split(".")[1] not in PLACING:
                yield name, same_attention(value) if name == "model.attention" else value
    for name in ("ratio", "k", "seed"):
        yield name, config.get(name)
    racing = config.get("racing") or {}
    yield "racing", racing if racing.get("delta") is not None else None
    yield from (("unit", config.get("unit", "block")), ("budget", config.get("budget", "parameters")))


def calibration_record(calibration: Any) -> dict[str, Any]:
    """The settings of a calibration and of its parts. Files are represented by their digests."""
    record = without_new(settings_record(calibration))
    for item in dataclasses.fields(calibration):
        if hasattr(part := getattr(calibration, item.name), "draw"):
            record[item.name] = calibration_record(part)
    if (file := calibration.file()) is not None:
        record["path"] = _file_digest(file)
    return record


def settings_record(settings: Any) -> dict[str, Any]:
    """The type and the fields of a frozen dataclass of settings."""
    return {"type": type(settings).__name__, **dataclasses.asdict(settings)}


def without_new(record: dict[str, Any]) -> dict[str, Any]:
    """The record of settings without settings that earlier versions did not have, if these have their defaults."""
    return {name: value for name, value in record.items() if (name, value) not in NEW.items()}


def _file_digest(path: str) -> str:
    file = Path(path).expanduser()
    try:
        return file_sha256(file)
    except OSError:
        return path  # a file that is missing or cannot be read is reported when the cell is checked
