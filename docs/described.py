"""Write the tables of pages that show the code, the archived studies or the benchmarks; `make describe` runs it.

python -m docs.described       a test fails if a page is out of date
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, NotRequired, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd

from analysis.data.archive import folder
from analysis.figures.fig4_overlap import means
from analysis.figures.fig5_variance_shares import ratio_text
from analysis.figures.style import DASH, number, ordered
from analysis.report.study_data import StudyData, percent, with_interval
from analysis.stats.components import IntervalEstimate
from analysis.stats.grid import at, each
from analysis.stats.perplexity_comparisons import relative
from benchmarks import growth as growth_module
from benchmarks.whole import PUBLISHED
from pruning.core.records import DoneResult, FailedResult, Point
from pruning.core.scoring import TraceLine
from pruning.core.storage import read_json
from pruning.launcher.submission import JobsRecord, QueuedCell, SubmissionRecord
from pruning.published.library import PublishedMask, entries

# The measured tables of docs/engine.md, from the files of the benchmarks.

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
SLOWEST = 4  # figures that have a row of their own in the table of growth
SAME = {True: "yes", False: "no", None: DASH}


def engine() -> str:
    """For each machine that ran `make bench`, what the engine saves on it, and a table with one row for each work."""
    return written(read_json(BENCHMARKS / "results.json"))


def written(rows: list[dict[str, Any]]) -> str:
    """The text of `engine` for rows of results."""
    ordered = sorted(rows, key=lambda row: str(row["device"]))
    machines = [list(part) for _, part in groupby(ordered, key=lambda row: row["device"])]
    return "\n\n".join(f"{_machine(part)}\n\n{_works(part)}" for part in machines)


def _machine(rows: list[dict[str, Any]]) -> str:
    new = [row for row in rows if not _is_old(row)]
    published = [row["ratio"] for row in new if row["work"].startswith(PUBLISHED)]
    plain = [row["ratio"] for row in new if not row["work"].startswith(PUBLISHED)]
    saved = f"{min(plain):.1f} to {max(plain):.1f} times less CPU time than one masked forward pass per mask"
    if published:
        saved += f", and {min(published):.1f} to {max(published):.1f} times less than SLEB's way of scoring"
    speeds = [_speed(rows, precision) for precision in ("bfloat16", "float32")]
    device = f"On one thread of an {rows[0]['device']} ({', '.join(speeds)} in one large product)"
    return f"{device}, the engine uses {saved}:"


def _speed(rows: list[dict[str, Any]], precision: str) -> str:
    measured = [row["peak_gflops"][precision] for row in rows if "peak_gflops" in row]
    low, high = min(measured), max(measured)
    return f"{low:,}{f' to {high:,}' if high > low else ''} GFLOP/s in {precision}"


def _works(rows: list[dict[str, Any]]) -> str:
    heads = ["work", "plain, CPU s", "engine, CPU s", "ratio", "tokens through blocks"]
    heads += ["engine : its products at peak", "same mask"]
    return table(heads, [_work(row) for row in rows])


def _work(row: dict[str, Any]) -> list[str]:
    seconds = [f"{row[name]:,.1f}" for name in ("baseline_cpu_seconds", "cpu_seconds")]
    fewer, same = f"{row['tokens_ratio']:.2f}x fewer", SAME[row["masks_equal"]]
    work = f"{row['work']} *" if _is_old(row) else row["work"]
    return [work, *seconds, f"{row['ratio']:.2f}x", fewer, f"{row['at_peak']:.2f}", same]


def _is_old(row: dict[str, Any]) -> bool:
    """Whether a row is of the benchmark before it settled near ties, which did not keep the speed of a product."""
    return "peak_gflops" not in row


def whole() -> str:
    """For each machine, the CPU seconds of the whole command, one row for each way."""
    rows: list[dict[str, Any]] = read_json(BENCHMARKS / "whole.json")
    heads = ["", "CPU s", "ratio", "blocks removed", "loss"]
    parts = groupby(rows, key=lambda row: str(row["device"]))
    return "\n\n".join(f"{device}:\n\n{table(heads, map(_way, part))}" for device, part in parts)


def _way(row: dict[str, Any]) -> list[str]:
    loss = f"{row['loss']:.4f}" if "loss" in row else DASH  # older results do not have it
    blocks = " ".join(map(str, row["mask"]))
    return [row["way"], f"{row['cpu_seconds']:.1f}", f"{row['ratio']:.2f}x", blocks, loss]


def growth() -> str:
    """The costs of a study by its size: of launching and storing it, then of its figures and its report."""
    study, analysis = (read_json(BENCHMARKS / f"growth_{half}.json") for half in ("study", "analysis"))
    costs: dict[str, dict[str, float]] = {}
    for run in analysis["runs"]:
        costs.setdefault(run["command"], {})[str(run["cells"])] = run["cpu"]
    report = costs.pop("report")
    slowest = sorted(costs, key=lambda name: -list(costs[name].values())[-1])[:SLOWEST]
    rows = [growth_module.row(name, spent) for name, spent in study["works"].items()]
    starts = analysis["starts"]
    rows += [growth_module.row(f"`{name}` by cells, s", costs[name], starts[name]) for name in slowest]
    others = {size: max(costs[name][size] for name in costs if name not in slowest) for size in report}
    rows += [
        growth_module.row("every other figure or table by cells, s, at most", others, min(starts.values()))
    ]
    rows += [growth_module.row("report by cells, s", report, starts["report"])]
    devices = " and ".join(sorted({study["device"], analysis["device"]}))
    return f"{devices}:\n\n{table(['work', 'cost by size', 'exponent'], rows)}"


TABLES: Tables = {"engine": engine, "whole": whole, "growth": growth}


# The tables of keys in docs/results_folder.md, from the types that describe the files.

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
    return "\n".join(
        ["| key | meaning |", "|---|---|", *(f"| `{key}` | {text} |" for key, text in keys(record))]
    )


def keys(record: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield each key with its description. Keys that may be absent are marked."""
    for name, hint in get_type_hints(record, include_extras=True).items():
        optional = get_origin(hint) is NotRequired
        kind, text = get_args(get_args(hint)[0] if optional else hint)[:2]
        yield f"{path}{name}", f"{text} May be absent." if optional and "only" not in text.lower() else text
        for nested in _records(kind):
            yield from keys(nested, f"{path}{name}.")


def _records(kind: Any) -> Iterator[Any]:
    """The records in a type: the type itself, or the records within a list or an optional type."""
    if hasattr(kind, "__required_keys__") or kind is QueuedCell:
        yield kind
    for part in get_args(kind) if get_origin(kind) is not Annotated else ():
        yield from _records(part)


FILE_TABLES_TABLES: Tables = {file: partial(file_table, record) for file, record in FILES.items()}


# The table of entries in docs/published.md, from the files of published masks.


def listed() -> str:
    """One row for each paper and model, and below the table the sources of each paper."""
    head = ["| file | model | methods | masks | blocks removed | numbers |", "|" + "---|" * 6]
    groups = groupby(entries(), key=lambda entry: (entry.paper, entry.model.name))
    rows = [_row(list(part)) for _, part in _collected(groups)]
    papers = groupby(entries(), key=lambda entry: entry.paper)
    return "\n".join([*head, *rows, "", *(_sources(paper, list(part)) for paper, part in papers)])


def _collected(
    groups: Iterable[tuple[Any, Iterable[PublishedMask]]],
) -> list[tuple[Any, list[PublishedMask]]]:
    """Groups with equal keys as one, although other groups are between them."""
    found: dict[Any, list[PublishedMask]] = {}
    for key, part in groups:
        found.setdefault(key, []).extend(part)
    return list(found.items())


def _row(part: list[PublishedMask]) -> str:
    masks = [entry for entry in part if entry.mask.dropped]
    methods = dict.fromkeys(entry.method.partition(" (")[0].partition(",")[0] for entry in masks)
    sizes = sorted({_blocks(entry) for entry in masks}, key=float)
    pairings = Counter(number.pairing.replace("_", " ") for entry in part for number in entry.numbers)
    numbers = ", ".join(f"{count} {pairing}" for pairing, count in pairings.items())
    model = f"{part[0].model.path}, {part[0].model.blocks} blocks"
    shown = (f"`{part[0].paper}`", model, ", ".join(methods), str(len(masks)), ", ".join(map(str, sizes)))
    return f"| {' | '.join(shown)} | {numbers or 'none'} |"


def _blocks(entry: PublishedMask) -> str:
    """The number of removed blocks; of sub-layers, half of their number."""
    return f"{len(entry.mask.dropped) / (1 if entry.mask.unit == 'block' else 2):g}"


def _sources(paper: str, part: list[PublishedMask]) -> str:
    """The places of a paper's masks and numbers, as an item of a list."""
    used = [source for e in part for source in (e.mask_source, *(number.source for number in e.numbers))]
    places = "; ".join(f"{source.address} ({source.place})" for source in dict.fromkeys(used))
    return f"- `{paper}`: {places}"


PUBLISHED_TABLES_TABLES: Tables = {"entries": listed}


# The table of races in docs/algorithms.md, from benchmarks/racing.json.

RACING_TABLES_ROOT = Path(__file__).parents[1]
CHOSEN = {"shuffled": "orders", "drawn": "draws"}  # by the name of the function that chooses a seed's windows


def races() -> str:
    """One row for each number of samples and k, each risk, with and without lazy rounds."""
    heads = [
        "windows",
        "k",
        "`racing.delta`",
        "`algo.lazy`",
        "same mask in",
        "evaluations paid",
        "work saved",
    ]
    rows: list[dict[str, Any]] = read_json(RACING_TABLES_ROOT / "benchmarks" / "racing.json")
    return table(heads, [_row_racing_tables(row) for row in rows])


def _row_racing_tables(row: dict[str, Any]) -> list[str]:
    same = f"{round(row['masks_equal'] * row['seeds'])} of {row['seeds']} {CHOSEN[row['windows']]}"
    lazy = "off" if row["lazy"] is None else str(row["lazy"])
    paid, saved = f"{100 * row['evaluations_paid']:.0f} %", f"{row['work_ratio']:.2f}x"
    return [str(row["samples"]), str(row["k"]), str(row["delta"]), lazy, same, paid, saved]


RACING_TABLES_TABLES: Tables = {"races": races}


# The cells of the archived studies, and how docs/results.md and docs/study_tables.md write numbers and tables.

STUDY_ARCHIVES_ROOT = Path(__file__).parents[1]
TEXT = ("divergence", "perplexity")
MAIN = (*TEXT, "margin")
ALL = ("block_influence", *MAIN)
SMOLLM2, GEMMA = "smollm2", "gemma3_270m"


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
    return StudyData(folder(STUDY_ARCHIVES_ROOT / f"analysis/{name}/{name}.tar.xz"), name, only)


def ratio(compared: pd.DataFrame, state: str = "pruned", **chosen: str) -> str:
    """One ratio of perplexities with its interval: that of a state and of some columns; a dash if there is none.

    A state is known by its first word.
    """
    rows = compared[compared["state"].str.startswith(state)]
    for column, value in chosen.items():
        rows = rows[rows[column] == value]
    return "".join(_relative(row.value, row.low, row.high) for row in each(rows)) or DASH


def _relative(value: float, low: float, high: float) -> str:
    """A ratio with its interval. Equal masks show no spread, so they have no interval."""
    return "1, the same masks" if value == low == high == 1 else with_interval(value, low, high)


def overlap(own: StudyData, comparison: str = "draws") -> str:
    """The mean corrected overlap of masks that differ only in the draw (or another factor), with its interval."""
    rows = own.overlaps[own.overlaps["comparison"] == comparison]
    return "".join(corrected(row) for row in each(means(rows, ["comparison"])))


def corrected(row: object) -> str:
    """The corrected overlap in a row with its interval. Equal masks show no spread, so they have none."""
    mean, low, high = (getattr(row, name) for name in ("corrected", "low", "high"))
    return f"{mean:.2f}, all equal" if low == high else f"{mean:.2f} ({low:.2f} to {high:.2f})"


# The tables on masks before and after repair and healing, from the archived study.

OBJECTIVES = ("block_influence", *TEXT)
STATES = ("pruned", "repaired", "healed")


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
            found = []
            for state in STATES:
                cells = states[states["state"].str.startswith(state)]
                cells = cells[(cells["objective"] == objective) & (cells["algo"] == algo)]
                found.append(f"{np.exp(np.log(cells['ppl']).mean()):.1f}, {cells['acc'].mean():.1f}")
            rows.append([objective, algo, *found])
    return table(["pruned for", "search", *STATES], rows)


# What masks of each objective and each search are worth, in the archived studies.

OUTCOMES = ("pruned for", "perplexity", "relative to divergence", "accuracy, percent")


def searches() -> str:
    """How each search did on SmolLM2, against the best mask that any search scored."""
    return _searches(study("study", MAIN), MAIN)


def searches_of_gemma() -> str:
    """How each search did on Gemma 3, against the best mask that any search scored."""
    return _searches(study("study", MAIN, model=GEMMA), MAIN)


def optimum() -> str:
    """How each search did on Gemma 3 where all pairs of blocks were scored, so that the best mask is the optimum."""
    own = study("study_all", TEXT, model=GEMMA)
    return _searches(own, TEXT, {"pairs scored": pairs_scored(own)})


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


def _searches(
    own: StudyData, objectives: Sequence[str], further: Mapping[str, Mapping[str, str]] | None = None
) -> str:
    """In how many draws each search found the best known mask, its mean regret in nats per token, and its cost.

    `further` maps the heading of each further column to its text for each search.
    """
    regrets = own.regrets
    rows = []
    for algo in ordered(regrets["algo"]):
        cells = regrets[regrets["algo"] == algo]
        found = [_regret(cells[cells["objective"] == objective]) for objective in objectives]
        more = [texts[str(algo)] for texts in (further or {}).values()]
        rows.append([algo, *found, f"{cells['asked'].astype(float).mean():,.0f}", *more])
    return table(["search", *objectives, "losses asked for", *(further or {})], rows)


def _regret(cells: pd.DataFrame) -> str:
    best = int((cells["regret"] <= 1e-9).sum())
    return f"{best} of {len(cells)}, {cells['regret'].mean():.3f}"


def outcomes() -> str:
    """Held-out perplexity, also relative to that of divergence, and accuracy, by objective, on SmolLM2."""
    return table(OUTCOMES, _outcomes(SMOLLM2))


def outcomes_of_gemma() -> str:
    """As `outcomes`, on Gemma 3, with the overlap of the masks of two draws."""
    overlaps = [overlap(study("study", (objective,), model=GEMMA)) for objective in ALL]
    rows = [[*row, own] for row, own in zip(_outcomes(GEMMA), overlaps, strict=True)]
    return table([*OUTCOMES, "overlap of two draws"], rows)


def _outcomes(model: str) -> list[list[str]]:
    own = study("study", ALL, model=model)
    costs = own.costs.set_index(["outcome", "objective"])
    rows = []
    for objective in ALL:
        perplexity = at(costs, ("ppl", objective), "mean")
        compared = "1" if objective == "divergence" else ratio(own.relative.objectives, objective=objective)
        rows.append([objective, number(perplexity), compared, accuracy(own, objective)])
    return rows


def accuracy(own: StudyData, objective: str) -> str:
    """The mean accuracy in percent of the masks for an objective, with its interval over draws.

    Equal masks show no spread, so they have no interval.
    """
    costs = own.costs.set_index(["outcome", "objective"])
    mean, high, low = (-at(costs, ("acc", objective), column) for column in ("mean", "low", "high"))
    return f"{mean:.1f}, all equal" if np.isclose(low, high) else f"{mean:.1f} ({low:.1f} to {high:.1f})"


def gains() -> str:
    """Held-out perplexity of each search relative to one-shot, paired by draw, on SmolLM2."""
    return _gains(SMOLLM2)


def gains_of_gemma() -> str:
    """As `gains`, on Gemma 3."""
    return _gains(GEMMA)


def _gains(model: str) -> str:
    compared = study("study", MAIN, model=model).relative.searches
    rows = [
        [algo, *(ratio(compared, objective=objective, algo=algo) for objective in MAIN)]
        for algo in ordered(compared["algo"])
    ]
    return table(["search", *MAIN], rows)


# How the variance of masks and outcomes is shared between calibration and search, in the archived main study.

STUDY_SHARES_OUTCOMES = ("masks", "calibration loss", "perplexity", "accuracy")
MASKS = STUDY_SHARES_OUTCOMES[:1]
PAPER = ("perplexity", "margin")
CRITERION = (*TEXT, "block_influence")
SMALL = 0.005  # a share below this would be 0 percent in whole numbers
STRONG = ("greedy", "beam", "genetic", "bayesian", "cbo")


@dataclass(frozen=True)
class Comparison:
    """Cells that are compared: in words, their objectives, the outcomes that are shown, their model and searches.

    Without searches, all searches of the model are compared.
    """

    words: str
    objectives: tuple[str, ...]
    outcomes: tuple[str, ...] = STUDY_SHARES_OUTCOMES
    model: str = SMOLLM2
    searches: tuple[str, ...] = ()


COMPARED = (
    Comparison("SmolLM2: perplexity, divergence, margin", MAIN),
    Comparison("perplexity, margin", PAPER, MASKS),
    Comparison("perplexity, divergence", TEXT, MASKS),
    Comparison("Gemma 3: perplexity, divergence, margin", MAIN, MASKS, GEMMA),
    Comparison("perplexity, divergence", TEXT, MASKS, GEMMA),
)
FURTHER = (
    Comparison("SmolLM2: perplexity, divergence, margin", MAIN),
    Comparison("perplexity, margin", PAPER),
    Comparison("perplexity, divergence, block_influence", CRITERION),
    Comparison("all four", ALL),
    Comparison("perplexity, divergence", TEXT),
    Comparison("the same without one_shot, fast_block_select", TEXT, searches=STRONG),
    Comparison("Gemma 3: perplexity, divergence, margin", MAIN, model=GEMMA),
    Comparison("perplexity, margin", PAPER, model=GEMMA),
    Comparison("perplexity, divergence, block_influence", CRITERION, model=GEMMA),
    Comparison("all four", ALL, model=GEMMA),
    Comparison("perplexity, divergence", TEXT, model=GEMMA),
)


def shares() -> str:
    """Shares of variance and their ratios, for the cells of each comparison."""
    return _shares(COMPARED)


def further() -> str:
    """As `shares`, for more objectives together, and for more outcomes."""
    return _shares(FURTHER)


def _shares(compared: Sequence[Comparison]) -> str:
    rows = []
    for one in compared:
        own = study("study", one.objectives, one.searches, model=one.model)
        found = dict(zip(STUDY_SHARES_OUTCOMES, own.shares[0].values(), strict=True))
        for outcome in one.outcomes:
            shown = found[outcome]
            parts = [_share(shown.parts[name]) for name in ("calibration", "search")]
            named = one.words if outcome == one.outcomes[0] else ""
            ratios = [ratio_text(r) for r in (shown.total_ratio, shown.objective_ratio, shown.objective_draw)]
            rows.append([named, outcome, *parts, *ratios])
    heads = ["calibration", "search", "calibration : search", "objective : search", "objective : draw"]
    return table(["objectives", "outcome", *heads], rows)


def _share(estimate: IntervalEstimate) -> str:
    if estimate.high < SMALL:
        return "under 1"
    return f"{percent(estimate.value)} ({percent(estimate.low)} to {percent(estimate.high)})"


# How much masks of two draws, two seeds and different numbers of samples overlap, in the archived studies.

NAMES = {"smollm2": "SmolLM2", "gemma3_270m": "Gemma 3"}
SEEDED = ("genetic", "bayesian")  # those of study_seeds


def draws() -> str:
    """The overlap of the masks of two draws for each objective and model."""
    own = [[overlap(study("study", (objective,), model=model)) for model in NAMES] for objective in ALL]
    return table(["objective", *NAMES.values()], [[name, *row] for name, row in zip(ALL, own, strict=True)])


def objectives() -> str:
    """The overlap of masks for perplexity and for divergence on the same draw, for each model."""
    own = {model: study("study", TEXT, model=model) for model in NAMES}
    rows = [[NAMES[model], overlap(cells, "objectives"), overlap(cells)] for model, cells in own.items()]
    return table(["model", "two objectives", "two draws"], rows)


def sizes() -> str:
    """The overlap of the masks of two draws by number of samples."""
    rows = [[name, *(corrected(row) for row in each(_sizes(name)))] for name in MAIN]
    return table(["objective", "8 windows, 16 items", "32, 64", "128, 256"], rows)


def _sizes(objective: str) -> pd.DataFrame:
    found = study("study_sizes", MAIN).sizes
    return found[found["objective"] == objective]


def seeds() -> str:
    """The overlap of masks of two seeds, and of two draws."""
    rows = []
    for algo in SEEDED:
        own = study("study_seeds", TEXT, (algo,))
        rows.append([algo, overlap(own, "seeds"), overlap(own, "draws")])
    return table(["search", "two seeds", "two draws"], rows)


# The tables in docs/study_tables.md, from the archived studies beside the main one.

DATA = {"items of ARC-Easy": "arc_easy_train", "labels of Commonsense 170k": "commonsense170k"}
PARTS = (
    ("study", "main comparison", SMOLLM2),
    ("study", "main comparison", GEMMA),
    ("study_all", "all pairs", GEMMA),
    ("study_sizes", "sizes", SMOLLM2),
    ("study_seeds", "seeds", SMOLLM2),
    ("study_labels", "labels", SMOLLM2),
    ("study_units", "sub-layers", SMOLLM2),
    ("study_healing", "repair and healing", SMOLLM2),
)  # archive, in words, model


def labels() -> str:
    """The margin on items that the model answers, and on labels, which it does not."""
    heads = ["margin on", "unpruned", "pruned", "relative to divergence", "accuracy, percent", "overlap"]
    return table(heads, [[words, *_margin(data)] for words, data in DATA.items()])


def _margin(data: str) -> list[str]:
    own = study("study_labels", ("margin",), calibration=data)
    base = study("study", ("divergence",), tuple(own.cells["algo"].unique()))
    found = relative(own.states.query("state == 'pruned'"), base.states.query("state == 'pruned'"))
    losses = [f"{-own.cells[column].mean():.2f}" for column in ("dense_loss", "loss")]
    return [
        *losses,
        with_interval(found.value, found.low, found.high),
        f"{own.metrics['acc'].of(own.cells).mean():.1f}",
        overlap(own),
    ]


def compute() -> str:
    """The cells of each part of the study and the hours of their searches, for each model."""
    rows = []
    for name, words, model in PARTS:
        cells = study(name, (), model=model).cells
        hours = cells["seconds"].sum() / 3600
        rows.append([words, NAMES[model], str(len(cells)), f"{hours:.1f}"])
    return table(["part", "model", "cells", "hours of search"], rows)


STUDY_TABLES_TABLES: Tables = {
    "more shares": further,
    "gains": gains,
    "searches on Gemma": searches_of_gemma,
    "outcomes on Gemma": outcomes_of_gemma,
    "gains on Gemma": gains_of_gemma,
    "optimum": optimum,
    "labels": labels,
    "sizes": sizes,
    "seeds": seeds,
    "objectives": objectives,
    "healed": healed,
    "compute": compute,
}


RESULTS: Tables = {
    "shares": shares,
    "searches": searches,
    "outcomes": outcomes,
    "draws": draws,
    "after healing": after_healing,
}
PAGES: Mapping[str, Tables] = {
    "algorithms.md": RACING_TABLES_TABLES,
    "engine.md": TABLES,
    "published.md": PUBLISHED_TABLES_TABLES,
    "results.md": RESULTS,
    "results_folder.md": FILE_TABLES_TABLES,
    "study_tables.md": STUDY_TABLES_TABLES,
}


def path(page: str) -> Path:
    """The file of a page."""
    return STUDY_ARCHIVES_ROOT / "docs" / page


def main() -> None:
    """Write the pages."""
    for page, tables in PAGES.items():
        text = path(page).read_text(encoding="utf-8")
        path(page).write_text(filled(text, tables), encoding="utf-8")


if __name__ == "__main__":
    main()


# The tables that stand between two marks of a page; `make describe` writes them again.

Tables = Mapping[str, Callable[[], str]]  # what computes each table of a page, by the name in the mark
BLOCK = re.compile(r"<!-- (?P<name>[^>]+): written by make describe -->\n.*?<!-- end -->", re.DOTALL)


def filled(page: str, tables: Tables) -> str:
    """The text of a page with its marked tables computed again. Raises KeyError for a mark of no known table."""
    return BLOCK.sub(
        lambda m: f"<!-- {m['name']}: written by make describe -->\n{tables[m['name']]()}\n<!-- end -->", page
    )


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (headings, ["---"] * len(headings), *rows))
