"""The tables that a command ends with: one row a cell, or one row a failure."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

COLUMNS = ("cell", "blocks dropped", "loss", "held-out perplexity", "held-out accuracy", "asked", "paid", "s")


def results(found: Iterable[Mapping[str, Any]]) -> str:
    """The table of finished cells; dense -> pruned where both are measured."""
    rows = list(found)
    return _render(
        COLUMNS, [_row(result, _telling(result, rows)) for result in rows], right=("asked", "paid", "s")
    )


def failures(found: Iterable[Mapping[str, Any]]) -> str:
    """The table of failed cells, with where to read on."""
    rows = [(r["cell"], r["error"]["type"], r["error"]["message"], r["error"]["log"]) for r in found]
    return _render(("failed cell", "error", "message", "log"), rows, wrap=True)


def _telling(result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Settings beside objective, algorithm and size, where the rows of a table differ in them."""
    settings = [dict(_settings(row)) for row in rows]
    own = dict(_settings(result))
    differing = [name for name in own if any(s.get(name, own[name]) != own[name] for s in settings)]
    return "".join(f" {name.rpartition(' ')[2]}={own[name]}" for name in differing)


def _settings(result: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    config, calibration = result["config"], result["calibration"]
    yield "seed", config["seed"]
    yield from ((name, config["model"][name]) for name in ("dtype", "attention"))
    yield from (("first", config["protect"]["first"]), ("last", config["protect"]["last"]))
    for name in ("source", "samples", "length"):  # objectives differ in these anyway
        yield f"{calibration['objective']} {name}", calibration[name]


def _row(result: Mapping[str, Any], telling: str) -> tuple[str, ...]:
    calibration, search = result["calibration"], result["search"]
    dense, pruned = result["evaluation"]["dense"], result["evaluation"]["pruned"]
    ratio, k = result["config"]["ratio"], search["k"]
    name = f"{result['model']['name']} {calibration['objective']} {search['algo']} "
    return (
        name + (f"k={k}" if ratio is None else f"{ratio:g}") + telling,
        " ".join(map(str, result["mask"]["dropped"])),
        f"{calibration['dense_loss']:.3f} -> {calibration['loss']:.3f}",
        f"{dense['ppl/heldout']:.2f} -> {pruned['ppl/heldout']:.2f}",
        f"{dense['acc/heldout']:.3f} -> {pruned['acc/heldout']:.3f}",
        str(search["evaluations_asked"]),
        str(search["evaluations_paid"]),
        f"{search['seconds']:.0f}",
    )


def _render(
    columns: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = (), wrap: bool = False
) -> str:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(
            column, justify="right" if column in right else "left", no_wrap=not wrap, overflow="fold"
        )
    for row in rows:
        table.add_row(*row)
    # Rows are never cut to fit: a pipe or a narrow window gets them whole. Long messages fold in a terminal only.
    width = shutil.get_terminal_size().columns if wrap and sys.stdout.isatty() else 4000
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    stream = console.file
    assert isinstance(stream, io.StringIO)
    return "\n".join(line.rstrip() for line in stream.getvalue().strip("\n").splitlines())


__all__ = ["failures", "results"]
