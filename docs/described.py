"""Write the tables in pages about archived studies or benchmarks; `make describe` runs this module.

python -m docs.described a test fails if any page is out of date

A table is between two marks in a page. `PAGES` maps the name in the mark to the function that computes the table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.data.archive import folder, unpack
from analysis.data.load import Metric, load
from analysis.data.study import AskedStudy
from analysis.figures.fig10_healing import Masks, healed
from analysis.figures.fig10_healing import table as of_states
from analysis.figures.style import DASH, number, ordered
from analysis.report.study_data import StudyData, percent, with_interval
from analysis.report.verdicts import claims
from analysis.stats.estimands import DRAWN, OBJECTIVE, SEARCH, Change, changes
from analysis.stats.grid import at, each
from analysis.stats.means import DrawMean
from pruning.core.storage import read_json
from pruning.core.units import bytes_text

ROOT = Path(__file__).parents[1]
Tables = Mapping[str, Callable[[], str]]  # the functions for a page's tables, by name in the mark
BLOCK = re.compile(r"<!-- (?P<name>[^>]+): written by make describe -->\n.*?<!-- end -->", re.DOTALL)


def main() -> None:
    """Write the pages."""
    for page, tables in PAGES.items():
        text = path(page).read_text(encoding="utf-8")
        path(page).write_text(filled(text, tables), encoding="utf-8")


def path(page: str) -> Path:
    """The file of a page."""
    return ROOT / "docs" / page


def filled(page: str, tables: Tables) -> str:
    """The text of a page with its marked tables computed again. Raises KeyError if a mark names no known table."""
    return BLOCK.sub(
        lambda m: f"<!-- {m['name']}: written by make describe -->\n{tables[m['name']]()}\n<!-- end -->", page
    )


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (headings, ["---"] * len(headings), *rows))


# Benchmarks.


def benchmark(name: str) -> Any:
    """The results of a benchmark."""
    return read_json(ROOT / "benchmarks" / f"{name}.json")


def engine(rows: list[dict[str, Any]]) -> str:
    """A table for each machine that ran `make bench`, from the rows of its results."""
    heads, tables = ["work", "in a study, s", "ratio", "at peak", "one cell", "best of all"], []
    for device, group in groupby(rows, key=lambda row: str(row["device"])):
        part = list(group)
        equal = ", with equal masks" if all(row["masks_equal"] for row in part) else ""
        tables.append(f"On an {device}{equal}:\n\n{table(heads, _works(part))}")
    return "\n\n".join(tables)


def _works(rows: list[dict[str, Any]]) -> Iterator[list[str]]:
    """Yield a row per work: as a study runs it, as a command of one cell does, and with the fastest settings."""
    for name, group in groupby(rows, key=lambda row: str(row["work"])):
        plain, *others = group
        line = [name, f"{plain['cpu_seconds']:,.1f}", f"{plain['ratio']:.2f}x", f"{plain['at_peak']:.2f}"]
        one_cell = [f"{one['ratio']:.2f}x" for one in others if one["settings"] == "bounds"]
        fastest = [f"{one['settings']}: {one['ratio']:.2f}x" for one in others if one["settings"] != "bounds"]
        yield [*line, *(one_cell or [DASH]), *(fastest or [DASH])]


def steps() -> str:
    """The steps of each kind of training on each machine, and how much faster they are than the plain loop."""
    tables = []
    for device, group in groupby(benchmark("healing"), key=lambda row: str(row["device"])):
        rows, (plain, *others) = [], group
        for row in (plain, *others):
            ratio = f"{plain['cpu_seconds'] / row['cpu_seconds']:.2f}x" if "lora" in row["way"] else DASH
            peak, memory = f"{row['at_peak']:.2f}", f"{row['memory_gb']:.1f} GB"
            rows.append([row["way"], f"{row['cpu_seconds']:.1f}", ratio, peak, memory])
        heads = [f"training on an {device}", "CPU s a step", "plain loop / this", "at peak", "peak memory"]
        tables.append(table(heads, rows))
    return "\n\n".join(tables)


def whole() -> str:
    """The CPU seconds of the script and the command, and their ratios, by size and machine."""
    lines: dict[str, dict[str, str]] = {}
    for row in benchmark("whole"):
        seconds = f"{row['cpu_seconds']:.1f}, {row['ratio']:.2f}x"
        lines.setdefault(row["way"], {})[f"{row['size']}, {row['device']}"] = seconds
    columns = list(dict.fromkeys(column for own in lines.values() for column in own))
    rows = ([way, *(own.get(column, DASH) for column in columns)] for way, own in lines.items())
    return table(["", *columns], rows)


# Archived studies.

TEXT = ("divergence", "perplexity")
MAIN = (*TEXT, "margin")
ALL = ("block_influence", *MAIN)
ON_ITEMS = ("block_influence", "divergence", "answer", "choice", "margin")  # the objectives of study_losses
SMOLLM2, GEMMA = "smollm2", "gemma3_270m"
NAMES = {SMOLLM2: "SmolLM2", GEMMA: "Gemma 3"}
STATES = ("pruned", "repaired", "healed")
LARGEST = "65,536 tokens"  # the largest budget of the study of fifteen masks


@cache
def study(
    name: str, objectives: tuple[str, ...] = (), searches: tuple[str, ...] = (), model: str | None = SMOLLM2
) -> StudyData:
    """The cells of a model in an archived study, with these objectives and searches (empty: with any)."""
    chosen = {"objective": objectives, "algo": searches, "model": (model,) if model else ()}
    only = {column: values for column, values in chosen.items() if values}
    packed = name.partition("_")[0]  # the parts of the larger study share its archive
    results = folder(ROOT / f"analysis/{packed}/{packed}.tar.xz")
    if name == "study_losses":  # its cells for the margin are in that archive
        unpack(ROOT / f"analysis/{name}/{name}.tar.xz", results)
    return StudyData(AskedStudy(results, name, only))


def ratio(compared: pd.DataFrame, state: str = "pruned", **chosen: str) -> str:
    """The ratio and its interval in the row of this state and the `chosen` values; a dash if there is none.

    A state is recognised by its first word. Equal masks show no spread, so they have no interval.
    """
    rows = compared[compared["state"].str.startswith(state)]
    for column, value in chosen.items():
        rows = rows[rows[column] == value]
    texts = (
        "1" if row.value == row.low == row.high == 1 else with_interval(row.value, row.low, row.high)
        for row in each(rows)
    )
    return "".join(texts) or DASH


def blocks(mean: DrawMean) -> str:
    """How many blocks change, with the interval. Equal masks show no spread, and draws have no interval."""
    return f"{mean.mean:.2f}" + (f" ({mean.low:.2f} to {mean.high:.2f})" if mean.low < mean.high else "")


def accuracy(own: StudyData, objective: str) -> str:
    """The mean accuracy in percent of an objective's masks, with its interval over draws if masks differ."""
    costs = own.costs.set_index(["outcome", "objective"])
    mean, low, high = (at(costs, ("acc", objective), column) for column in ("mean", "low", "high"))
    return f"{mean:.1f}" if np.isclose(low, high) else f"{mean:.1f} ({low:.1f} to {high:.1f})"


def estimates(model: str) -> list[Change]:
    """What search, draw and objective change in a model's masks and in their held-out perplexity."""
    own = study("study", MAIN, model=model)
    return changes(own.cells, np.log(own.metrics["ppl"].of(own.cells).astype(float)))


def moved() -> str:
    """How many blocks change if one factor changes, and highest : lowest held-out perplexity over its levels."""
    factors = {SEARCH: "another search", DRAWN: "another draw", OBJECTIVE: "another objective"}
    rows: dict[tuple[str, ...], list[str]] = {}
    for model in NAMES:
        for one in sorted(estimates(model), key=lambda one: [*factors].index(one.factor)):
            sides = (" or ".join(names) for names in (one.objectives, one.others) if names)
            row = rows.setdefault((factors[one.factor], " : ".join(sides)), [])
            row += [blocks(one.changed), f"{number(one.worst_to_best.mean)}"]
        chance = f"{estimates(model)[0].chance:.2f}"
        rows.setdefault(("random masks", ""), []).extend([chance, ""])
    heads = ["blocks of 6, SmolLM2", "worst : best", "blocks of 4, Gemma 3", "worst : best"]
    return table(["if this changes", "for", *heads], ([*key, *row] for key, row in rows.items()))


def searches(model: str) -> str:
    """In how many draws each search found the best known mask, its mean regret in nats per token, and its cost."""
    regrets, rows = study("study", MAIN, model=model).regrets, []
    for algo in ordered(regrets["algo"]):
        cells, row = regrets[regrets["algo"] == algo], [algo]
        for objective in MAIN:
            regret = cells[cells["objective"] == objective]["regret"]
            row.append(f"{int((regret <= 1e-9).sum())} of {len(regret)}, {regret.mean():.3f}")
        rows.append([*row, f"{cells['asked'].astype(float).mean():,.0f}"])
    return table(["search", *MAIN, "losses asked for"], rows)


def outcomes(name: str, objectives: tuple[str, ...]) -> str:
    """Held-out perplexity, its ratio to that of divergence, and accuracy, by model and objective."""
    rows = []
    for model, words in NAMES.items():
        own = study(name, objectives, model=model)
        costs = own.costs.set_index(["outcome", "objective"])
        dense = {kind: metric.of(own.cells, "dense").iloc[0] for kind, metric in own.metrics.items()}
        rows.append([words, "nothing removed", f"{dense['ppl']:.1f}", "", f"{dense['acc']:.1f}"])
        for objective in objectives:
            value = "1" if objective == "divergence" else ratio(own.relative.objectives, objective=objective)
            perplexity = number(at(costs, ("ppl", objective), "mean"))
            rows.append(["", objective, perplexity, value, accuracy(own, objective)])
    return table(["model", "pruned for", "perplexity", "relative to divergence", "accuracy, percent"], rows)


def after_healing() -> str:
    """The perplexity of some masks relative to others, paired by draw: pruned, repaired, and healed."""
    found = study("study_healing").relative
    rows = []
    for name in TEXT:
        ratios = (ratio(found.searches, state, objective=name, algo="greedy") for state in STATES)
        rows.append([f"greedy : one_shot, {name}", *ratios])
    ratios = (ratio(found.objectives, state, objective="block_influence") for state in STATES)
    return table(["perplexity of", *STATES], [*rows, ["block_influence : divergence", *ratios]])


def statements() -> str:
    """The verdicts on the paper's statements in the small study."""
    return "\n".join(f"- {sentence}" for sentence in claims(study("small", model=None)))


# Masks after repair and training.


@cache
def trained() -> Masks:
    """The fifteen masks of the archived study of healing."""
    results = folder(ROOT / "analysis/heal/heal.tar.xz")
    return healed(results, load(results, "heal"), Metric("ppl", ("ppl/heldout",)))


def fifteen() -> str:
    """Each mask with its perplexity: pruned, repaired, and trained on LARGEST, which all masks have."""
    rows = []
    for dropped, own in of_states(trained()).groupby("dropped", sort=False):
        state = own.set_index("state")
        last = at(state, LARGEST, "regained"), at(state, LARGEST, "low")
        share = f"{percent(last[0])} ({percent(last[1])} to {percent(at(state, LARGEST, 'high'))})"
        shown = [number(at(state, name, "ppl")) for name in ("pruned", "repaired", LARGEST)]
        rows.append([str(own["found_by"].iloc[0]), str(dropped), *shown, share])
    return table(["found by", "removed", "pruned", "repaired", LARGEST, "regained"], rows)


# Ways to a smaller model.

QWEN = "qwen2_5_coder"
BITS = ("BF16", "Q8_0", "Q5_0", "Q4_0")
MASKS = ["blocks-10", "sublayers-10", "blocks-20", "sublayers-20", "SLEB-20", "ShortGPT-20", "random-20"]
ZEROS = [f"{method}-{share}" for share in (20, 50) for method in ("Wanda", "SparseGPT")]
FILES = [f"{one}-{bits}" for one in ("dense", "blocks-10-trained", "blocks-20-trained") for bits in BITS[1:]]


def measured_ways(model: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The measurements of each model and, in llama.cpp, of each GGUF file, by name."""
    found = benchmark(f"when/{model}")
    return found["models"], found["llamacpp"]["files"]


def ways(model: str) -> str:
    """What each way costs on the novel and on held-out items, and what its last state saves."""
    (rows, files), lines = measured_ways(model), []
    known = (one for one in ("dense", *MASKS, *ZEROS, *FILES) if any(row.startswith(one) for row in rows))
    # In bfloat16, models with equal numbers of parameters have equal shapes here, so they are equally fast.
    speeds = {
        own["parameters"]: files[f"{name}-BF16"] for name, own in rows.items() if f"{name}-BF16" in files
    }
    for name in known:
        made = [rows.get(f"{name}-{state}") for state in ("pruned", "repaired", "trained")]
        if name in rows:
            made[2 if "-trained-" in name else 0] = rows[name]
        own = rows[name] if name == "dense" else [row for row in made if row][-1]
        line = [re.sub(r"-(\d+)", r", \1 %", name).replace("-trained", "").replace("-", ", ")]
        line += [_changed(row, "ppl/novel") for row in made]
        line += [_changed(own, "acc/heldout"), bytes_text(own["disk"])]
        file = files.get(name) or speeds[own["parameters"]]
        line += [bytes_text((file if name in FILES else own)["memory"])]
        line += [f"{file['new_per_second'] / files['dense-BF16']['new_per_second']:.1f}x"]
        lines.append(line)
    return table(["", "as made", "repaired", "trained", "accuracy", "on disk", "memory", "llama.cpp"], lines)


def _changed(row: Any, metric: str) -> str:
    """A metric's change from the dense model with its standard error; for the dense model, the metric itself."""
    if row is None or metric not in row["changes"]:
        return DASH if row is None else f"{row['metrics'][metric]:#.3g}"
    return "{amount:+,.1f} ± {error:.1f}".format(**row["changes"][metric])


PAGES: Mapping[str, Tables] = {
    "when.md": {"SmolLM2": partial(ways, SMOLLM2), "Qwen": partial(ways, QWEN)},
    "benchmarks.md": {"engine": lambda: engine(benchmark("results")), "whole": whole, "steps": steps},
    "measured.md": {"fifteen masks": fifteen, "after healing": after_healing},
    "studies.md": {
        "moved": moved,
        "outcomes": partial(outcomes, "study", ALL),
        "losses": partial(outcomes, "study_losses", ON_ITEMS),
        "searches": partial(searches, SMOLLM2),
        "searches on Gemma": partial(searches, GEMMA),
        "statements": statements,
    },
}


if __name__ == "__main__":
    main()
