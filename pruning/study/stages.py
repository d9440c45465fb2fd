"""The table of one cell: its dense, pruned, repaired and healed model side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from pruning.core.metric_names import kind_of, metrics_among
from pruning.core.result import DoneResult
from pruning.core.units import bytes_text, rate_text
from pruning.export.metric_text import number
from pruning.study.tables import about_healing, render, title

SPEED = {"prefill_per_second": "prompt tokens/s", "decode_per_second": "new tokens/s"}


def stages(result: DoneResult) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each model of a result with its metrics: `dense`, `pruned`, and `repaired` and `healed` if there are such."""
    evaluation = cast(Mapping[str, Any], result["evaluation"])
    yield "dense", evaluation["dense"]
    if "uncompensated" in evaluation:
        yield "pruned", evaluation["uncompensated"]
        yield "repaired", evaluation["pruned"]
    else:
        yield "pruned", evaluation["pruned"]
    if "healed" in evaluation:
        yield "healed", evaluation["healed"]


def table(result: DoneResult) -> str:
    """One row per model: every metric with its standard error, tokens per second, and size.

    The row of the healed model names its mask if it is not the search's, and says if training did not help. A repair
    and a healing change weights and not their number, so all smaller models have the speed and the size of the pruned
    one.
    """
    found = list(stages(result))
    names = [name for name in metrics_among(found[0][1]) if isinstance(found[0][1][name], int | float)]
    names.sort(key=lambda name: kind_of(name).startswith("acc"))
    speed = result["evaluation"].get("speed")
    gained = {} if speed is None else {which: list(_gained(speed, which)) for which in ("dense", "pruned")}
    columns = ["model", *map(title, names), *(SPEED.values() if gained else ())]
    columns += ["parameters", "size"] if gained else []
    rows = [
        [_named(result, which), *(number(name, values) for name in names), *gained.get(_timed(which), ())]
        for which, values in found
    ]
    return render(columns, rows, right=columns[1:])


def _named(result: DoneResult, which: str) -> str:
    return which + (about_healing(result) if which == "healed" else "")


def _timed(which: str) -> str:
    return "dense" if which == "dense" else "pruned"


def _gained(speed: Mapping[str, Any], which: str) -> Iterator[str]:
    """Tokens per second with the first shape of input, parameters, and bytes of a model, as text."""
    for name in SPEED:
        yield rate_text(speed["runs"][0][which][name]["median"])
    yield f"{speed['sizes'][which]['parameters']:,}"
    yield bytes_text(speed["sizes"][which]["bytes"])
