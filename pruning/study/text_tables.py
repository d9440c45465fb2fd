"""Print text, and format it: pages from templates, and tables with a row for each cell or failure."""

from __future__ import annotations

import io
import shutil
import sys
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
UNITS = "dropped (a: attention, m: MLP, b: both)"  # the title if masks are over sub-layers
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
    """The text of a template file from this module's folder, filled with `values`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    templates = Environment(loader=loader, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    return templates.get_template(template).render(**values).rstrip("\n")


def failures(failed: Iterable[Failure]) -> str:
    """The table of failed cells: error, message and log."""
    rows = [(r["cell"], r["error"]["type"], r["error"]["message"], r["error"]["log"]) for r in failed]
    return fitted(("failed cell", "error", "message", "log"), rows)


# The table of finished cells.


def results(done: Iterable[DoneResult]) -> str:
    """The table of finished cells, with a column `dense -> pruned` for every metric that any cell has."""
    found = list(done)
    columns, rows = _cells(found)
    for row, differences in zip(rows, differing([dict(_settings(one)) for one in found]), strict=True):
        row[0] += differences
    return fitted(columns, rows, right=LAST, spare=(LAST, ("loss",)))


def line(result: DoneResult) -> str:
    """The table row of a finished cell as one line of a log, with the column titles."""
    columns, (row,) = _cells([result])
    entries = zip(columns[1:], row[1:], strict=True)
    return "   ".join([row[0], *(f"{title} {entry}" for title, entry in entries if title not in LAST[:2])])


def _cells(found: Sequence[DoneResult]) -> tuple[list[str], list[list[str]]]:
    metrics = dict.fromkeys(name for one in found for name in metrics_among(one["evaluation"]["pruned"]))
    kinds = [*LABELS, *map(kind_of, metrics)]  # first perplexities, then accuracies, then the mean accuracy
    names = sorted(metrics, key=lambda name: (name == "acc/mean", kinds.index(kind_of(name))))
    timed = any("speed" in one["evaluation"] for one in found)
    plain = all(one["mask"].get("unit", "block") == "block" for one in found)
    columns = ["cell", "blocks dropped" if plain else UNITS, "loss", *map(title, names)]
    rows = []
    for one in found:
        calibration, search, config = one["calibration"], one["search"], one["config"]
        size = f"k={search['k']}" if config["ratio"] is None else f"{config['ratio']:g}"
        name = [one["model"]["name"], calibration["objective"], search["algo"], size]
        name += [config["unit"]] if config["unit"] != "block" else []
        name += ["by latency"] if config["budget"] == "latency" else []
        row = [
            " ".join(name),
            " ".join(map(str, one["mask"]["dropped"])),
            f"{calibration['dense_loss']:.3f} -> {calibration['loss']:.3f}{_near_tie(one)}",
            *(_change(name, one) for name in names),
        ]
        row += [_speed(one)] if timed else []
        paid = (search["evaluations_asked"], search["evaluations_paid"])
        rows.append([*row, *map(str, paid), f"{search['seconds']:.0f}"])
    return [*columns, *(["speed"] if timed else []), *LAST], rows


def differing(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each row, a text with the settings whose values differ between rows. A row may lack settings."""
    first: dict[str, Any] = {}
    names = {name for row in rows for name, value in row.items() if first.setdefault(name, value) != value}
    return [
        "".join(f" {name.rpartition(' ')[2]}={value}" for name, value in row.items() if name in names)
        for row in rows
    ]


def _settings(result: DoneResult) -> Iterator[tuple[str, Any]]:
    """Yield the settings that a row's name shows after objective, algorithm and size, if they differ between rows."""
    config, calibration = result["config"], result["calibration"]
    yield "seed", config["seed"]
    yield "dtype", config["model"]["dtype"]
    yield from (("first", config["protect"]["first"]), ("last", config["protect"]["last"]))
    # These differ between objectives anyway, so they are compared only within one objective.
    for name in ("source", "samples", "length"):
        yield f"{calibration['objective']} {name}", calibration[name]


def title(name: str) -> str:
    """The title of a metric's column."""
    return TITLES.get(name, f"{name.partition('/')[2]} {label_of(name)}")


def _near_tie(result: DoneResult) -> str:
    """A note if rounding may have decided between masks, so that another processor may find another mask."""
    if (near := result["margins"].get("near_ties")) is None:
        return ""
    unknown = " (near ties unknown)" if near["rounding"] is None else ""
    return " (near tie)" if near["open"] else unknown


def _change(metric: str, result: DoneResult) -> str:
    """A metric as `dense -> pruned`, with the healed model's value if there is one; `-` if it was not measured."""
    decimals = 2 if kind_of(metric).endswith("ppl") else 3
    evaluation = result["evaluation"]
    values = [evaluation["dense"].get(metric), evaluation["pruned"].get(metric)]
    if None in values:
        return "-"
    text = " -> ".join(f"{value:.{decimals}f}" for value in values)
    healed = evaluation.get("healed", {}).get(metric)
    return text if healed is None else f"{text}, healed {healed:.{decimals}f}{about_healing(result)}"


def about_healing(result: DoneResult) -> str:
    """A note that names the healed mask if it is not the search's, and says if training did not help."""
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


def fitted(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Sequence[str] = (),
    spare: Sequence[Sequence[str]] = (),
) -> str:
    """A table that fits the width of the terminal. If the output is a pipe, the table is drawn in full.

    If the table is too wide, the groups of columns in `spare` are left out one by one; last, entries are folded.
    """
    width = shutil.get_terminal_size().columns if is_terminal(sys.stdout) else None

    def fits(text: str) -> bool:
        return width is None or max(map(len, text.splitlines())) <= width

    text = render(columns, rows, right)
    for group in spare:
        if not fits(text):
            kept = [number for number, title in enumerate(columns) if title not in group]
            columns, rows = [columns[n] for n in kept], [[row[n] for n in kept] for row in rows]
            text = render(columns, rows, right)
    return text if fits(text) else render(columns, rows, right, width)


def render(
    columns: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = (), width: int | None = None
) -> str:
    """A table as text. Columns in `right` are aligned to the right. With `width`, entries are folded to fit it."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        justify: Any = "right" if column in right else "left"
        table.add_column(column, justify=justify, no_wrap=width is None, overflow="fold")
    for row in rows:
        table.add_row(*row)
    stream = io.StringIO()
    Console(file=stream, width=4000 if width is None else max(20, width)).print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().strip("\n").splitlines())
