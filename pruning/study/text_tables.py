"""What a command prints: text, pages from templates, and tables with one row per cell or per failure."""

from __future__ import annotations

import io
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from pruning.core.mask import Mask
from pruning.core.records import LABELS, DoneResult, Failure, kind_of, label_of, metrics_among
from pruning.core.terminal import is_terminal
from pruning.engine import collectives

LAST = ("asked", "paid", "s")
UNITS = "dropped (a: attention, m: MLP, b: both)"  # if a mask is over sub-layers
TITLES = {
    "ppl/heldout": "held-out perplexity",
    "acc/heldout": "held-out accuracy",
    "self_ppl/continuations": "perplexity of dense continuations",
    "same/continuations": "share before the first difference",
    "repeated/continuations": "repeated 4-grams",
}


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


def failures(failed: Iterable[Failure]) -> str:
    """The table of failed cells: error, message and log."""
    rows = [(r["cell"], r["error"]["type"], r["error"]["message"], r["error"]["log"]) for r in failed]
    return render(("failed cell", "error", "message", "log"), rows, wrap=True)


# The table of finished cells.


def results(done: Iterable[DoneResult]) -> str:
    """The table of finished cells, with a column `dense -> pruned` for every metric that any of these cells has."""
    found = list(done)
    metrics = dict.fromkeys(name for one in found for name in metrics_among(one["evaluation"]["pruned"]))
    kinds = [*LABELS, *map(kind_of, metrics)]  # first perplexities, then accuracies, then the mean accuracy
    names = sorted(metrics, key=lambda name: (name == "acc/mean", kinds.index(kind_of(name))))
    timed = any("speed" in one["evaluation"] for one in found)
    plain = all(one["mask"].get("unit", "block") == "block" for one in found)
    columns = ["cell", "blocks dropped" if plain else UNITS, "loss", *map(title, names)]
    columns += ["speed", *LAST] if timed else LAST
    rows = []
    for one, differences in zip(found, differing([dict(_settings(one)) for one in found]), strict=True):
        calibration, search = one["calibration"], one["search"]
        row = [
            _name(one) + differences,
            " ".join(map(str, one["mask"]["dropped"])),
            f"{calibration['dense_loss']:.3f} -> {calibration['loss']:.3f}{_near_tie(one)}",
            *(_change(name, one) for name in names),
        ]
        row += [_speed(one)] if timed else []
        paid = (search["evaluations_asked"], search["evaluations_paid"])
        rows.append([*row, *map(str, paid), f"{search['seconds']:.0f}"])
    return _fitted(columns, rows, render(columns, rows, right=LAST))


def differing(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each row of settings, those that differ from another row, as text; a row need not have every setting."""
    first: dict[str, Any] = {}
    names = {name for row in rows for name, value in row.items() if first.setdefault(name, value) != value}
    return [
        "".join(f" {name.rpartition(' ')[2]}={value}" for name, value in row.items() if name in names)
        for row in rows
    ]


def _settings(result: DoneResult) -> Iterator[tuple[str, Any]]:
    """The settings by which a row is named; without objective, algorithm and size, which `_name` has."""
    config, calibration = result["config"], result["calibration"]
    yield "seed", config["seed"]
    yield "dtype", config["model"]["dtype"]
    yield from (("first", config["protect"]["first"]), ("last", config["protect"]["last"]))
    # These differ between objectives anyway, so they are compared only between results of the same objective.
    for name in ("source", "samples", "length"):
        yield f"{calibration['objective']} {name}", calibration[name]


def _name(result: DoneResult) -> str:
    config, ratio = result["config"], result["config"]["ratio"]
    unit, cost = config.get("unit", "block"), config.get("budget", "parameters")
    parts = [result["model"]["name"], result["calibration"]["objective"], result["search"]["algo"]]
    parts.append(f"k={result['search']['k']}" if ratio is None else f"{ratio:g}")
    parts += [] if unit == "block" else [unit]
    return " ".join(parts + ([] if cost == "parameters" else [f"by {cost}"]))


def title(name: str) -> str:
    """The title of a metric's column."""
    return TITLES.get(name, f"{name.partition('/')[2]} {label_of(name)}")


def _near_tie(result: DoneResult) -> str:
    """A note if rounding may have decided between masks, so that another processor may find another mask."""
    if (near := result.get("margins", {}).get("near_ties")) is None:
        return ""
    unknown = " (near ties unknown)" if near["rounding"] is None else ""
    return " (near tie)" if near["open"] else unknown


def _change(metric: str, result: DoneResult) -> str:
    """A metric as `dense -> pruned`; `-` if it was not measured."""
    decimals = 2 if kind_of(metric).endswith("ppl") else 3
    evaluation = result["evaluation"]
    values = [evaluation["dense"].get(metric), evaluation["pruned"].get(metric)]
    if None in values:
        return "-"
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
        return "-"
    ratio = speed["runs"][0]["ratio"]
    return f"{ratio['prefill']:.2f}x prefill, {ratio['decode']:.2f}x decode"


# Draw a table as text.


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
    stream = io.StringIO()
    Console(file=stream, width=width).print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().strip("\n").splitlines())


def _fitted(columns: Sequence[str], rows: Iterable[Sequence[str]], table: str) -> str:
    """The table; if the terminal is too narrow for it, one entry per line instead. A pipe gets the whole table."""
    width = shutil.get_terminal_size().columns
    if not is_terminal(sys.stdout) or max(map(len, table.splitlines()), default=0) <= width:
        return table
    indent = max(map(len, columns[1:])) + 4
    lines: list[str] = []
    for first, *entries in rows:
        lines += ["", *textwrap.wrap(first, max(20, width))]
        for column, entry in zip(columns[1:], entries, strict=True):
            label, left = f"  {column}", " " * indent
            if indent + 12 > width:  # the entry starts on the next line
                lines.append(label)
                label = left = "    "
            lines += textwrap.wrap(
                entry, max(20, width), initial_indent=label.ljust(len(left)), subsequent_indent=left
            )
    return "\n".join(lines[1:])
