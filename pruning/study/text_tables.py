"""What a command prints: text, pages from templates, and tables with one row per cell or per failure."""

from __future__ import annotations

import io
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from rich import box
from rich.console import Console
from rich.table import Table

from pruning.core.mask import Mask
from pruning.core.records import LABELS, DoneResult, Failure, kind_of, label_of, metrics_among
from pruning.core.terminal import is_terminal
from pruning.engine import collectives

FIRST, LAST = ("cell", "blocks dropped", "loss"), ("asked", "paid", "s")
UNITS = ("cell", "dropped (a: attention, m: MLP, b: both)", "loss")  # if a mask is over sub-layers
TITLES = {
    "ppl/heldout": "held-out perplexity",
    "acc/heldout": "held-out accuracy",
    "self_ppl/continuations": "perplexity of dense continuations",
    "same/continuations": "share before the first difference",
    "repeated/continuations": "repeated 4-grams",
}

Show: TypeAlias = Callable[[DoneResult], str]  # returns the entry of a result in one column


def say(text: str) -> None:
    """Print a part of the command's output, on the first rank only."""
    if collectives.is_first():
        print(text, flush=True)  # noqa: T201 - the table is the command's output; logs go to stderr


def page(template: str, **values: Any) -> str:
    """The text of a template beside this file."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    templates = Environment(loader=loader, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    return templates.get_template(template).render(**values).rstrip("\n")


def results(done: Iterable[DoneResult]) -> str:
    """The table of finished cells, with a column `dense -> pruned` for every metric that any of these cells has."""
    rows = list(done)
    metrics = dict.fromkeys(name for row in rows for name in metrics_among(row["evaluation"]["pruned"]))
    kinds = [*LABELS, *map(kind_of, metrics)]  # first perplexities, then accuracies, then the mean accuracy
    names = sorted(metrics, key=lambda name: (name == "acc/mean", kinds.index(kind_of(name))))
    middle: list[tuple[str, Show]] = [(title(name), partial(_change, name)) for name in names]
    if any(map(_speed, rows)):
        middle.append(("speed", _speed))
    first = FIRST if all(row["mask"].get("unit", "block") == "block" for row in rows) else UNITS
    columns = (*first, *(title for title, _ in middle), *LAST)
    shown = [show for _, show in middle]
    differences = differing([dict(_settings(row)) for row in rows])
    entries = [_row(result, text, shown) for result, text in zip(rows, differences, strict=True)]
    return _fitted(columns, entries, render(columns, entries, right=LAST))


def failures(failed: Iterable[Failure]) -> str:
    """The table of failed cells: error, message and log."""
    rows = [(r["cell"], r["error"]["type"], r["error"]["message"], r["error"]["log"]) for r in failed]
    return render(("failed cell", "error", "message", "log"), rows, wrap=True)


def differing(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each row of settings, those that differ from another row, as text; a row need not have every setting."""
    first: dict[str, Any] = {}
    names = {name for row in rows for name, value in row.items() if first.setdefault(name, value) != value}
    return [
        "".join(f" {name.rpartition(' ')[2]}={value}" for name, value in row.items() if name in names)
        for row in rows
    ]


def _settings(result: DoneResult) -> Iterator[tuple[str, Any]]:
    """The settings by which a row is named; without objective, algorithm and size, which `_row` shows."""
    config, calibration = result["config"], result["calibration"]
    yield "seed", config["seed"]
    yield from ((name, config["model"][name]) for name in ("dtype", "attention"))
    yield from (("first", config["protect"]["first"]), ("last", config["protect"]["last"]))
    # These differ between objectives anyway, so they are compared only between results of the same objective.
    for name in ("source", "samples", "length"):
        yield f"{calibration['objective']} {name}", calibration[name]


def title(name: str) -> str:
    """The title of a metric's column."""
    return TITLES.get(name, f"{name.partition('/')[2]} {label_of(name)}")


def _row(result: DoneResult, differences: str, shown: Sequence[Show]) -> tuple[str, ...]:
    calibration, search = result["calibration"], result["search"]
    config, k = result["config"], search["k"]
    unit, cost = config.get("unit", "block"), config.get("budget", "parameters")
    ratio, removed = config["ratio"], "" if unit == "block" else f" {unit}"
    removed += "" if cost == "parameters" else f" by {cost}"
    name = f"{result['model']['name']} {calibration['objective']} {search['algo']} "
    return (
        name + (f"k={k}" if ratio is None else f"{ratio:g}") + removed + differences,
        " ".join(map(str, result["mask"]["dropped"])),
        f"{calibration['dense_loss']:.3f} -> {calibration['loss']:.3f}{_near_tie(result)}",
        *(show(result) or "-" for show in shown),
        str(search["evaluations_asked"]),
        str(search["evaluations_paid"]),
        f"{search['seconds']:.0f}",
    )


def _near_tie(result: DoneResult) -> str:
    """A note if rounding may have decided between masks, so that another processor may find another mask."""
    if (near := result.get("margins", {}).get("near_ties")) is None:
        return ""
    unknown = " (near ties unknown)" if near["rounding"] is None else ""
    return " (near tie)" if near["open"] else unknown


def _change(metric: str, result: DoneResult) -> str:
    """A metric as `dense -> pruned`; empty if it was not measured."""
    decimals = 2 if kind_of(metric).endswith("ppl") else 3
    evaluation = result["evaluation"]
    values = [evaluation["dense"].get(metric), evaluation["pruned"].get(metric)]
    if None in values:
        return ""
    text = " -> ".join(f"{value:.{decimals}f}" for value in values)
    healed = evaluation.get("healed", {}).get(metric)
    return text if healed is None else f"{text}, healed {healed:.{decimals}f}{about_healing(result)}"


def about_healing(result: DoneResult) -> str:
    """The mask of the healed model, if it is not the search's, and whether training left the weights as they were."""
    if "heal" not in result:
        return ""
    selection = result["heal"].get("selection")
    other = ""
    if selection is not None and selection["changed"]:
        other = f" (without {' '.join(Mask.from_json(selection['mask']).names())})"
    return other + (" (training did not help)" if result["heal"]["best_step"] == 0 else "")


def _speed(result: DoneResult) -> str:
    """The speedup over the dense model (ratio of tokens per second) for the first measured batch and prompt."""
    if (speed := result["evaluation"].get("speed")) is None:
        return ""
    ratio = speed["runs"][0]["ratio"]
    return f"{ratio['prefill']:.2f}x prefill, {ratio['decode']:.2f}x decode"


def _fitted(columns: Sequence[str], rows: Iterable[Sequence[str]], table: str) -> str:
    """The table; if the terminal is too narrow for it, one entry per line instead. A pipe gets the whole table."""
    width = shutil.get_terminal_size().columns
    if not is_terminal(sys.stdout) or max(map(len, table.splitlines()), default=0) <= width:
        return table
    label = max(map(len, columns[1:])) + 2
    lines: list[str] = []
    for first, *entries in rows:
        lines += ["", *textwrap.wrap(first, max(20, width))]
        for column, entry in zip(columns[1:], entries, strict=True):
            lines += _entry(f"  {column}", entry, label + 2, width)
    return "\n".join(lines[1:])


def _entry(label: str, entry: str, indent: int, width: int) -> list[str]:
    """A label and its entry within `width` characters; the entry starts on the next line if it must."""
    if indent + 12 > width:
        return [label, *textwrap.wrap(entry, max(20, width), initial_indent="    ", subsequent_indent="    ")]
    return textwrap.wrap(entry, width, initial_indent=label.ljust(indent), subsequent_indent=" " * indent)


def render(
    columns: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = (), wrap: bool = False
) -> str:
    """A table as text; columns in `right` are aligned to the right, and `wrap` folds long entries."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(
            column, justify="right" if column in right else "left", no_wrap=not wrap, overflow="fold"
        )
    for row in rows:
        table.add_row(*row)
    # Rows are never cut here: `_fitted` arranges them for a narrow terminal. Only long messages are folded.
    width = shutil.get_terminal_size().columns if wrap and is_terminal(sys.stdout) else 4000
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    stream = console.file
    assert isinstance(stream, io.StringIO)
    return "\n".join(line.rstrip() for line in stream.getvalue().strip("\n").splitlines())
