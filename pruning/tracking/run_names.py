"""The name by which a person knows a run: what was searched, not a digest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

_KEY = re.compile(r"(?P<names>.+-.+-.+)-(?P<size>[kr])(?P<value>[0-9.e+-]+)-s(?P<seed>-?\d+)-[0-9a-f]+")
_SIZES = {"k": "k", "r": "ratio"}
_UNITS = {"block": "blocks", "sublayer": "sub-layers", "attention": "attention", "mlp": "MLPs"}


def run_name(cell: str, config: Mapping[str, Any], k: int | None = None) -> str:
    """The name of a cell's run, such as `smollm2 · perplexity · greedy · k=6 · seed 0 · 8 of pydoc`.

    The end says how many samples of which data the loss was measured on. `k` replaces a ratio if it is known. A key
    of another form is its own name. If anything but k whole blocks is removed, the name says what: `6 sub-layers`, or
    `sub-layers, 20 % of parameters`. Cells that differ in other settings have equal names; the tag `cell` holds the
    key, which differs.
    """
    if (key := _KEY.fullmatch(cell)) is None:
        return cell
    model, objective, algo = key["names"].rsplit("-", 2)
    size = _removed(key, config) or (f"k={k}" if k is not None else f"{_SIZES[key['size']]}={key['value']}")
    return " · ".join((model, objective, algo, size, f"seed {key['seed']}", *_data(config)))


def _removed(key: re.Match[str], config: Mapping[str, Any]) -> str:
    """What is removed; empty for whole blocks that are counted."""
    unit, budget = config.get("unit", "block"), config.get("budget", "parameters")
    if (unit, budget) == ("block", "parameters"):
        return ""
    if key["size"] == "r":
        return f"{_UNITS.get(unit, unit)}, {100 * float(key['value']):g} % of {budget}"
    kind = {"attention": "attention ", "mlp": "MLP "}.get(unit, "")
    return f"{key['value']} {kind}sub-layer{'' if key['value'] == '1' else 's'}"


def _data(config: Mapping[str, Any]) -> Iterator[str]:
    """The number of samples and the name of their source, if the configuration has them."""
    data = config.get("calibration") or {}
    if data.get("source") and data.get("samples"):
        yield f"{data['samples']} of {PurePath(str(data['source'])).name}"
