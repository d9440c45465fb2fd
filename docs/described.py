"""Write the tables of pages that show the code, the archived studies or the benchmarks; `make describe` runs it.

python -m docs.described       a test fails if a page is out of date

A table stands between two marks of a page. `PAGES` names what computes each of them; below are the tables of the
benchmarks, of the files and published masks, and of the studies.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, NotRequired, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd

from analysis.data.archive import folder
from analysis.figures.fig5_variance_shares import ratio_text
from analysis.figures.style import DASH, number, ordered
from analysis.report.study_data import StudyData, percent, with_interval
from analysis.stats import mask_overlap
from analysis.stats.components import IntervalEstimate
from analysis.stats.grid import at, each
from analysis.stats.perplexity_comparisons import relative
from benchmarks import growth as growth_module
from benchmarks.whole import PUBLISHED
from pruning.core.records import DoneResult, FailedResult, Point
from pruning.core.scoring import TraceLine
from pruning.core.storage import read_json
from pruning.launcher.submission import JobsRecord, SubmissionRecord
from pruning.published.library import PublishedMask, entries

ROOT = Path(__file__).parents[1]
Tables = Mapping[str, Callable[[], str]]  # what computes each table of a page, by the name in the mark
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
    """The text of a page with its marked tables computed again. Raises KeyError for a mark of no known table."""
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


def engine() -> str:
    """For each machine that ran `make bench`, what the engine saves on it, and a table with one row for each work."""
    return written(benchmark("results"))


def written(rows: list[dict[str, Any]]) -> str:
    """The text of `engine` for rows of results."""
    ordered = sorted(rows, key=lambda row: str(row["device"]))
    machines = (list(part) for _, part in groupby(ordered, key=lambda row: row["device"]))
    heads = ["work", "plain, CPU s", "engine, CPU s", "ratio", "tokens through blocks"]
    heads += ["engine : its products at peak", "same mask"]
    return "\n\n".join(f"{_machine(part)}\n\n{table(heads, map(_work, part))}" for part in machines)


def _machine(rows: list[dict[str, Any]]) -> str:
    measured = [row for row in rows if "peak_gflops" in row]
    ratios: dict[bool, list[float]] = {True: [], False: []}  # to published code, and to plain passes
    for row in measured:
        ratios[row["work"].startswith(PUBLISHED)].append(row["ratio"])
    low, high = min(ratios[False]), max(ratios[False])
    saved = f"{low:.1f} to {high:.1f} times less CPU time than one masked forward pass per mask"
    if published := ratios[True]:
        saved += f", and {min(published):.1f} to {max(published):.1f} times less than SLEB's way of scoring"
    speeds = []
    for precision in ("bfloat16", "float32"):
        found = [row["peak_gflops"][precision] for row in measured]
        range_ = f"{min(found):,}" + (f" to {max(found):,}" if max(found) > min(found) else "")
        speeds.append(f"{range_} GFLOP/s in {precision}")
    device = f"On one thread of an {rows[0]['device']} ({', '.join(speeds)} in one large product)"
    return f"{device}, the engine uses {saved}:"


def _work(row: dict[str, Any]) -> list[str]:
    # A row without `peak_gflops` is of the benchmark before it settled near ties.
    work = row["work"] if "peak_gflops" in row else f"{row['work']} *"
    seconds = [f"{row[name]:,.1f}" for name in ("baseline_cpu_seconds", "cpu_seconds")]
    same = {True: "yes", False: "no", None: DASH}[row["masks_equal"]]
    fewer = f"{row['tokens_ratio']:.2f}x fewer"
    return [work, *seconds, f"{row['ratio']:.2f}x", fewer, f"{row['at_peak']:.2f}", same]


def whole() -> str:
    """For each machine, the CPU seconds of the whole command, one row for each way."""

    def way(row: dict[str, Any]) -> list[str]:
        loss = f"{row['loss']:.4f}" if "loss" in row else DASH  # older results do not have it
        blocks = " ".join(map(str, row["mask"]))
        return [row["way"], f"{row['cpu_seconds']:.1f}", f"{row['ratio']:.2f}x", blocks, loss]

    heads = ["", "CPU s", "ratio", "blocks removed", "loss"]
    parts = groupby(benchmark("whole"), key=lambda row: str(row["device"]))
    return "\n\n".join(f"{device}:\n\n{table(heads, map(way, part))}" for device, part in parts)


def growth(slowest: int = 4) -> str:
    """The costs of a study by its size: of launching and storing it, then of its `slowest` figures and its report."""
    study, analysis = (benchmark(f"growth_{half}") for half in ("study", "analysis"))
    costs: dict[str, dict[str, float]] = {}
    for run in analysis["runs"]:
        costs.setdefault(run["command"], {})[str(run["cells"])] = run["cpu"]
    report, starts, row = costs.pop("report"), analysis["starts"], growth_module.row
    slow = sorted(costs, key=lambda name: -list(costs[name].values())[-1])[:slowest]
    others = {size: max(costs[name][size] for name in costs if name not in slow) for size in report}
    rows = [row(name, spent) for name, spent in study["works"].items()]
    rows += [row(f"`{name}` by cells, s", costs[name], starts[name]) for name in slow]
    rows += [row("every other figure or table by cells, s, at most", others, min(starts.values()))]
    rows += [row("report by cells, s", report, starts["report"])]
    devices = " and ".join(sorted({study["device"], analysis["device"]}))
    return f"{devices}:\n\n{table(['work', 'cost by size', 'exponent'], rows)}"


def races() -> str:
    """One row for each number of samples and k, each risk, with and without lazy rounds."""
    heads = ["windows", "k", "`racing.delta`", "`algo.lazy`"]
    heads += ["same mask in", "evaluations paid", "work saved"]
    how = {"shuffled": "orders", "drawn": "draws"}  # by the function that chooses a seed's windows
    rows = []
    for row in benchmark("racing"):
        same = f"{round(row['masks_equal'] * row['seeds'])} of {row['seeds']} {how[row['windows']]}"
        lazy = "off" if row["lazy"] is None else str(row["lazy"])
        paid, saved = f"{100 * row['evaluations_paid']:.0f} %", f"{row['work_ratio']:.2f}x"
        rows.append([str(row["samples"]), str(row["k"]), str(row["delta"]), lazy, same, paid, saved])
    return table(heads, rows)


# Files of a results folder, from the types that describe them; and published masks.

FILES = {
    "result.json of a finished cell": DoneResult,
    "result.json of a failed cell": FailedResult,
    "heal.jsonl": Point,
    "trace.jsonl": TraceLine,
    "submission.json": SubmissionRecord,
    "jobs.json": JobsRecord,
}


def file_table(record: Any) -> str:
    """A table of all keys of a TypedDict. Keys of a nested record include the path to that record."""
    rows = "\n".join(f"| `{key}` | {text} |" for key, text in keys(record))
    return f"| key | meaning |\n|---|---|\n{rows}"


def keys(record: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield each key with its description. Keys that may be absent are marked."""
    for name, hint in get_type_hints(record, include_extras=True).items():
        optional = get_origin(hint) is NotRequired
        kind, text = get_args(get_args(hint)[0] if optional else hint)[:2]
        yield f"{path}{name}", f"{text} May be absent." if optional and "only" not in text.lower() else text
        for nested in _records(kind):
            yield from keys(nested, f"{path}{name}.")


def _records(kind: Any) -> Iterator[Any]:
    """The records in a type: the type itself or those within a list or an optional type.

    A record is a TypedDict, or a dataclass whose fields are all described.
    """
    hints = get_type_hints(kind, include_extras=True).values() if is_dataclass(kind) else ()
    if hasattr(kind, "__required_keys__") or (hints and all(get_origin(hint) is Annotated for hint in hints)):
        yield kind
    for part in get_args(kind) if get_origin(kind) is not Annotated else ():
        yield from _records(part)


def published() -> str:
    """One row for each paper and model, and below the table the sources of each paper."""
    models: dict[tuple[str, str], list[PublishedMask]] = {}
    papers: dict[str, list[PublishedMask]] = {}
    for entry in entries():
        models.setdefault((entry.paper, entry.model.name), []).append(entry)
        papers.setdefault(entry.paper, []).append(entry)
    lines = ["| file | model | methods | masks | blocks removed | numbers |", "|" + "---|" * 6]
    lines += [*map(_published_row, models.values()), ""]
    for paper, part in papers.items():
        used = [source for e in part for source in (e.mask_source, *(number.source for number in e.numbers))]
        places = "; ".join(f"{source.address} ({source.place})" for source in dict.fromkeys(used))
        lines.append(f"- `{paper}`: {places}")
    return "\n".join(lines)


def _published_row(part: list[PublishedMask]) -> str:
    masks = [entry for entry in part if entry.mask.dropped]
    methods = dict.fromkeys(entry.method.partition(" (")[0].partition(",")[0] for entry in masks)
    # Two sub-layers are a block.
    sizes = {f"{len(e.mask.dropped) / (1 if e.mask.unit == 'block' else 2):g}" for e in masks}
    pairings = Counter(number.pairing.replace("_", " ") for entry in part for number in entry.numbers)
    numbers = ", ".join(f"{count} {pairing}" for pairing, count in pairings.items())
    model = f"{part[0].model.path}, {part[0].model.blocks} blocks"
    cells = (f"`{part[0].paper}`", model, ", ".join(methods), str(len(masks)))
    return f"| {' | '.join(cells)} | {', '.join(sorted(sizes, key=float))} | {numbers or 'none'} |"


# Archived studies.

TEXT = ("divergence", "perplexity")
MAIN = (*TEXT, "margin")
ALL = ("block_influence", *MAIN)
SMOLLM2, GEMMA = "smollm2", "gemma3_270m"
NAMES = {SMOLLM2: "SmolLM2", GEMMA: "Gemma 3"}
OBJECTIVES = ("block_influence", *TEXT)  # those of study_healing
STATES = ("pruned", "repaired", "healed")


@cache
def study(
    name: str,
    objectives: tuple[str, ...],
    searches: tuple[str, ...] = (),
    calibration: str | None = None,
    model: str = SMOLLM2,
) -> StudyData:
    """The cells of a model in an archived study that have one of some objectives and searches (any if empty)."""
    chosen = {"objective": objectives, "algo": searches, "calibration": (calibration,) if calibration else ()}
    only = {"model": (model,)} | {column: values for column, values in chosen.items() if values}
    return StudyData(folder(ROOT / f"analysis/{name}/{name}.tar.xz"), name, only)


def ratio(compared: pd.DataFrame, state: str = "pruned", **chosen: str) -> str:
    """One ratio of perplexities with its interval: that of a state and of some columns; a dash if there is none.

    A state is known by its first word. Equal masks show no spread, so they have no interval.
    """
    rows = compared[compared["state"].str.startswith(state)]
    for column, value in chosen.items():
        rows = rows[rows[column] == value]
    return (
        "".join(
            "1, the same masks"
            if row.value == row.low == row.high == 1
            else with_interval(row.value, row.low, row.high)
            for row in each(rows)
        )
        or DASH
    )


def overlap(own: StudyData, comparison: str = "draws") -> str:
    """The mean corrected overlap of masks that differ only in the draw (or another factor), with its interval."""
    found = mask_overlap.overlap(own.cells, comparison)
    return corrected(found.mean, found.low, found.high)


def corrected(mean: float, low: float, high: float) -> str:
    """A corrected overlap with its interval. Draws have none, and neither have equal masks, which show no spread."""
    if np.isnan(low):
        return f"{mean:.2f}{', all equal' if mean == 1 else ''}"
    return f"{mean:.2f}, all equal" if low == high else f"{mean:.2f} ({low:.2f} to {high:.2f})"


def accuracy(own: StudyData, objective: str) -> str:
    """The mean accuracy in percent of the masks for an objective, with its interval over draws.

    Equal masks show no spread, so they have no interval.
    """
    costs = own.costs.set_index(["outcome", "objective"])
    mean, high, low = (-at(costs, ("acc", objective), column) for column in ("mean", "low", "high"))
    return f"{mean:.1f}, all equal" if np.isclose(low, high) else f"{mean:.1f} ({low:.1f} to {high:.1f})"


def searches(name: str, objectives: tuple[str, ...], model: str = SMOLLM2, pairs: bool = False) -> str:
    """In how many draws each search found the best known mask, its mean regret in nats per token, and its cost.

    If all pairs of blocks were scored, the best known mask is the optimum. With `pairs`, a column says how many of
    them each search scored.
    """
    own = study(name, objectives, model=model)
    regrets, further = own.regrets, {"pairs scored": pairs_scored(own)} if pairs else {}
    rows = []
    for algo in ordered(regrets["algo"]):
        cells, row = regrets[regrets["algo"] == algo], [algo]
        for objective in objectives:
            regret = cells[cells["objective"] == objective]["regret"]
            row.append(f"{int((regret <= 1e-9).sum())} of {len(regret)}, {regret.mean():.3f}")
        row.append(f"{cells['asked'].astype(float).mean():,.0f}")
        rows.append([*row, *(texts[str(algo)] for texts in further.values())])
    return table(["search", *objectives, "losses asked for", *further], rows)


def pairs_scored(own: StudyData) -> dict[str, str]:
    """For each search, the fewest and the most complete masks that a cell of it scored."""
    cells = own.cells[["cell", "algo", "k"]]
    counts = [
        len({tuple(line["dropped"]) for line in own.traces[cell] if len(line["dropped"]) == k})
        for cell, _, k in cells.itertuples(index=False)
    ]
    by = pd.Series(counts).groupby(cells["algo"].to_numpy())
    ends = zip(by.min().items(), by.max(), strict=True)
    return {str(algo): str(low) if low == high else f"{low} to {high}" for (algo, low), high in ends}


def outcomes(model: str = SMOLLM2, overlaps: bool = False) -> str:
    """Held-out perplexity, also relative to that of divergence, and accuracy, by objective."""
    own = study("study", ALL, model=model)
    costs = own.costs.set_index(["outcome", "objective"])
    rows = []
    for objective in ALL:
        perplexity = at(costs, ("ppl", objective), "mean")
        compared = "1" if objective == "divergence" else ratio(own.relative.objectives, objective=objective)
        rows.append([objective, number(perplexity), compared, accuracy(own, objective)])
        rows[-1] += [overlap(study("study", (objective,), model=model))] if overlaps else []
    heads = ["pruned for", "perplexity", "relative to divergence", "accuracy, percent"]
    return table([*heads, "overlap of two draws"] if overlaps else heads, rows)


def gains(model: str = SMOLLM2) -> str:
    """Held-out perplexity of each search relative to one-shot, paired by draw."""
    compared = study("study", MAIN, model=model).relative.searches
    rows = [
        [algo, *(ratio(compared, objective=objective, algo=algo) for objective in MAIN)]
        for algo in ordered(compared["algo"])
    ]
    return table(["search", *MAIN], rows)


def after_healing() -> str:
    """The perplexity of some masks relative to others, as they are, repaired, and healed. Paired by draw."""
    found = study("study_healing", OBJECTIVES).relative
    rows = [
        [
            f"greedy : one_shot, {name}",
            *(ratio(found.searches, state, objective=name, algo="greedy") for state in STATES),
        ]
        for name in TEXT
    ]
    objectives = [ratio(found.objectives, state, objective="block_influence") for state in STATES]
    return table(["perplexity of", *STATES], [*rows, ["block_influence : divergence", *objectives]])


def healed() -> str:
    """Held-out perplexity and accuracy of masks: pruned, repaired, and healed."""
    states = study("study_healing", OBJECTIVES).states
    rows = []
    for objective in OBJECTIVES:
        for algo in ("one_shot", "greedy"):
            rows.append([objective, algo])
            for state in STATES:
                cells = states[states["state"].str.startswith(state)]
                cells = cells[(cells["objective"] == objective) & (cells["algo"] == algo)]
                rows[-1].append(f"{np.exp(np.log(cells['ppl']).mean()):.1f}, {cells['acc'].mean():.1f}")
    return table(["pruned for", "search", *STATES], rows)


# How the variance of masks and outcomes is shared between calibration and search. Each comparison has its words, its
# objectives, the outcomes that are shown, its model and its searches (all if there are none).

OUTCOMES = ("masks", "calibration loss", "perplexity", "accuracy")
MASKS = OUTCOMES[:1]
PAPER, CRITERION = ("perplexity", "margin"), (*TEXT, "block_influence")
SMALL = 0.005  # a share below this would be 0 percent in whole numbers
STRONG = ("greedy", "beam", "genetic", "bayesian", "cbo")
Comparison = tuple[str, tuple[str, ...], tuple[str, ...], str, tuple[str, ...]]

COMPARED: tuple[Comparison, ...] = (
    ("SmolLM2: perplexity, divergence, margin", MAIN, OUTCOMES, SMOLLM2, ()),
    ("perplexity, margin", PAPER, MASKS, SMOLLM2, ()),
    ("perplexity, divergence", TEXT, MASKS, SMOLLM2, ()),
    ("Gemma 3: perplexity, divergence, margin", MAIN, MASKS, GEMMA, ()),
    ("perplexity, divergence", TEXT, MASKS, GEMMA, ()),
)
FURTHER: tuple[Comparison, ...] = (
    ("SmolLM2: perplexity, divergence, margin", MAIN, OUTCOMES, SMOLLM2, ()),
    ("perplexity, margin", PAPER, OUTCOMES, SMOLLM2, ()),
    ("perplexity, divergence, block_influence", CRITERION, OUTCOMES, SMOLLM2, ()),
    ("all four", ALL, OUTCOMES, SMOLLM2, ()),
    ("perplexity, divergence", TEXT, OUTCOMES, SMOLLM2, ()),
    ("the same without one_shot, fast_block_select", TEXT, OUTCOMES, SMOLLM2, STRONG),
    ("Gemma 3: perplexity, divergence, margin", MAIN, OUTCOMES, GEMMA, ()),
    ("perplexity, margin", PAPER, OUTCOMES, GEMMA, ()),
    ("perplexity, divergence, block_influence", CRITERION, OUTCOMES, GEMMA, ()),
    ("all four", ALL, OUTCOMES, GEMMA, ()),
    ("perplexity, divergence", TEXT, OUTCOMES, GEMMA, ()),
)


def shares(compared: Sequence[Comparison]) -> str:
    """Shares of variance and their ratios, for the cells of each comparison."""
    rows = []
    for words, objectives, shown, model, algos in compared:
        own = study("study", objectives, algos, model=model)
        found = dict(zip(OUTCOMES, own.shares[0].values(), strict=True))
        for outcome in shown:
            one = found[outcome]
            parts = [_share(one.parts[name]) for name in ("calibration", "search")]
            ratios = [ratio_text(r) for r in (one.total_ratio, one.objective_ratio, one.objective_draw)]
            rows.append([words if outcome == shown[0] else "", outcome, *parts, *ratios])
    heads = ["calibration", "search", "calibration : search", "objective : search", "objective : draw"]
    return table(["objectives", "outcome", *heads], rows)


def _share(estimate: IntervalEstimate) -> str:
    if estimate.high < SMALL:
        return "under 1"
    return f"{percent(estimate.value)} ({percent(estimate.low)} to {percent(estimate.high)})"


# How much masks overlap, and what the studies took.


def draws() -> str:
    """The overlap of the masks of two draws for each objective and model."""
    rows = [
        [objective, *(overlap(study("study", (objective,), model=model)) for model in NAMES)]
        for objective in ALL
    ]
    return table(["objective", *NAMES.values()], rows)


def objectives() -> str:
    """The overlap of masks for perplexity and for divergence on the same draw, for each model."""
    own = {name: study("study", TEXT, model=model) for model, name in NAMES.items()}
    rows = [[name, overlap(cells, "objectives"), overlap(cells)] for name, cells in own.items()]
    return table(["model", "two objectives", "two draws"], rows)


def sizes() -> str:
    """The overlap of the masks of two draws by number of samples."""
    found = study("study_sizes", MAIN).sizes
    rows = [[name, *found.loc[found["objective"] == name, "corrected"].map("{:.2f}".format)] for name in MAIN]
    return table(["objective", "8 windows, 16 items", "32, 64", "128, 256"], rows)


def seeds() -> str:
    """The overlap of masks of two seeds, and of two draws."""
    own = {algo: study("study_seeds", TEXT, (algo,)) for algo in ("genetic", "bayesian")}
    rows = [[algo, overlap(cells, "seeds"), overlap(cells)] for algo, cells in own.items()]
    return table(["search", "two seeds", "two draws"], rows)


def labels() -> str:
    """The margin on items that the model answers, and on labels, which it does not."""
    heads = ["margin on", "unpruned", "pruned", "relative to divergence", "accuracy, percent", "overlap"]
    data = {"items of ARC-Easy": "arc_easy_train", "labels of Commonsense 170k": "commonsense170k"}
    rows = []
    for words, calibration in data.items():
        own = study("study_labels", ("margin",), calibration=calibration)
        base = study("study", ("divergence",), tuple(own.cells["algo"].unique()))
        found = relative(*(cells.states.query("state == 'pruned'") for cells in (own, base)))
        losses = [f"{-own.cells[column].mean():.2f}" for column in ("dense_loss", "loss")]
        compared = with_interval(found.value, found.low, found.high)
        accurate = f"{own.metrics['acc'].of(own.cells).mean():.1f}"
        rows.append([words, *losses, compared, accurate, overlap(own)])
    return table(heads, rows)


def compute() -> str:
    """The cells of each part of the study and the hours of their searches, for each model."""
    parts = (
        ("study", "main comparison", SMOLLM2),
        ("study", "main comparison", GEMMA),
        ("study_all", "all pairs", GEMMA),
        ("study_sizes", "sizes", SMOLLM2),
        ("study_seeds", "seeds", SMOLLM2),
        ("study_labels", "labels", SMOLLM2),
        ("study_units", "sub-layers", SMOLLM2),
        ("study_healing", "repair and healing", SMOLLM2),
    )
    rows = []
    for name, words, model in parts:
        cells = study(name, (), model=model).cells
        hours = cells["seconds"].sum() / 3600
        rows.append([words, NAMES[model], str(len(cells)), f"{hours:.1f}"])
    return table(["part", "model", "cells", "hours of search"], rows)


PAGES: Mapping[str, Tables] = {
    "algorithms.md": {"races": races},
    "engine.md": {"engine": engine, "whole": whole, "growth": growth},
    "published.md": {"entries": published},
    "results.md": {
        "shares": partial(shares, COMPARED),
        "searches": partial(searches, "study", MAIN),
        "outcomes": outcomes,
        "draws": draws,
        "after healing": after_healing,
    },
    "results_folder.md": {file: partial(file_table, record) for file, record in FILES.items()},
    "study_tables.md": {
        "more shares": partial(shares, FURTHER),
        "gains": gains,
        "searches on Gemma": partial(searches, "study", MAIN, GEMMA),
        "outcomes on Gemma": partial(outcomes, GEMMA, overlaps=True),
        "gains on Gemma": partial(gains, GEMMA),
        "optimum": partial(searches, "study_all", TEXT, GEMMA, pairs=True),
        "labels": labels,
        "sizes": sizes,
        "seeds": seeds,
        "objectives": objectives,
        "healed": healed,
        "compute": compute,
    },
}


if __name__ == "__main__":
    main()
