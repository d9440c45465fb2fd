"""Score published masks, and explain the gaps between published numbers and the ones measured here.

depth-pruning referee --dry-run             print what would be measured, and what is missing
depth-pruning referee                       all masks: needs GPUs and a hub account
depth-pruning referee --only sleb,llama3_8b some: names of files, models or masks
depth-pruning referee --only ours eval=embedded_windows     this project's own masks: no hub, minutes on two cores

SETTING=VALUE is a setting of `depth-pruning grid`. `eval` (by default `perplexity`) chooses the common
protocol for all masks. Of the other settings, only those of `model` and `paths` have an effect.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections import Counter
from collections.abc import Sequence

from pruning.config.compose import cell_of_words
from pruning.core import storage
from pruning.core.errors import InputError, unknown
from pruning.core.terminal import FAILED, command_words
from pruning.evaluation.corpora import CorpusPerplexity
from pruning.published import library, measure
from pruning.published.library import Protocol
from pruning.published.measure import GapRow, Referee
from pruning.runs.cell import Cell
from pruning.study.text_tables import render, say

log = logging.getLogger(__name__)

COLUMNS = ("mask", "model", "removed", "text", "published", "ours, one protocol", "ours, theirs", "verdict")


def main() -> None:
    """The command `depth-pruning referee`."""
    if status := run_referee(command_words()):
        raise SystemExit(status)


def run_referee(words: Sequence[str]) -> int:
    """Run the command; returns the exit status. Raises InputError before anything is measured."""
    asked = _parsed(words)
    cell, evaluation = _cell(asked.settings)
    one = {
        name: Protocol(
            **dataclasses.asdict(corpus), dtype=cell.model.dtype, harness="this project, one protocol"
        )
        for name, corpus in evaluation.corpora.items()
    }
    rows = measure.rows(library.chosen(asked.only), one, asked.text)
    for option, known in (("model", library.models().keys()), ("text", {row.corpus for row in rows})):
        for name in getattr(asked, option):
            if name not in known:
                raise unknown(f"{option} in --{option}", name, known)
    referee = Referee(cell.command.results, cell.model, asked.model, evaluation.limit)
    if asked.dry_run:
        say(_dry_run(rows, referee))
        return 0
    storage.check_writable(cell.command.results)
    if lacking := measure.missing(rows, referee):
        raise InputError(
            "\n  ".join(["These are missing, so nothing was measured:", *lacking]) + f"\n{measure.HELP}"
        )
    requests = measure.requests(rows)
    for request in requests:
        referee.samples(request)  # raises if its windows are too long
    done = sum(referee.known(request) is not None for request in requests)
    log.info("%s; %d of %d measurements are known", _counts(rows), done, len(requests))
    found = measure.explained(rows, dict(referee.measure(requests)))
    folder = cell.command.results / measure.FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    table = {"tolerance": measure.TOLERANCE, "rows": list(map(measure.record, found))}
    storage.write_json(folder / "table.json", table)
    say(f"{_result(found)}\nfiles    {folder}")
    return FAILED if any(one.verdict == "failed" for one in found) else 0


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    """The arguments. Raises InputError if --model or --text is not NAME=PATH; argparse refuses unknown options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("settings", nargs="*", metavar="SETTING=VALUE", help="settings of a launch")
    add("--only", metavar="NAME,NAME", help="papers, models or masks")
    add("--dry-run", action="store_true", help="measure nothing: say what would be done, and what is missing")
    add("--model", action="append", default=[], metavar="NAME=DIR", help="a directory with a model")
    add("--text", action="append", default=[], metavar="NAME=FILE", help="a file with a text")
    asked = parser.parse_intermixed_args(list(words))
    asked.only = asked.only.split(",") if asked.only else None
    for option in ("model", "text"):
        given = getattr(asked, option)
        if wrong := [word for word in given if not all(word.partition("=")[1:])]:
            raise InputError(f"--{option} {wrong[0]}: give --{option} NAME=PATH.")
        setattr(asked, option, dict(word.split("=", 1) for word in given))
    return asked


def _cell(words: Sequence[str]) -> tuple[Cell, CorpusPerplexity]:
    """A cell (only its model and results folder are used) and its evaluation."""
    if given := [word for word in words if word.startswith("launcher=")]:
        raise InputError(f"{given[0]}: submit this command itself as a job; leave launcher out.")
    option = next((word for word in words if word.startswith("eval=")), "eval=perplexity")
    cell = cell_of_words(list(dict.fromkeys([option, *words])))
    if not isinstance(cell.evaluation, CorpusPerplexity):
        raise InputError(
            f"{option} is not perplexity on texts: give eval=perplexity or eval=embedded_windows, whose corpora are "
            "the one protocol."
        )
    return cell, cell.evaluation


# What the command prints: its dry run, and its table.


def _dry_run(rows: Sequence[GapRow], referee: Referee) -> str:
    """The text of a dry run: the masks with their published numbers, and what is missing."""
    masks = []
    for entry in dict.fromkeys(row.entry for row in rows):
        printed = ", ".join(f"{one.theirs.corpus} {one.value:,.2f}" for one in entry.numbers) or "-"
        removed = " ".join(entry.mask.names()) or "nothing"
        masks.append((entry.name, entry.model.name, entry.method, removed, printed))
    lines = [_counts(rows), render(("mask", "model", "method", "removed", "published"), masks)]
    if lacking := measure.missing(rows, referee):
        lines += ["missing", *(f"  {one}" for one in lacking), measure.HELP]
    return "\n".join([*lines, "This was a dry run: nothing was measured."])


def _result(found: Sequence[measure.Explained]) -> str:
    """The text of a result: the table, each verdict's count and meaning, and the explanation of each gap."""

    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:,.2f}"

    table = []
    for one in found:
        entry, number = one.row.entry, one.row.number
        values = (None if number is None else number.value, one.one, one.own)
        names = (entry.name, entry.model.name, " ".join(entry.mask.names()) or "nothing", one.row.corpus)
        table.append((*names, *map(shown, values), one.verdict))
    counts = Counter(one.verdict for one in found)
    lines = [render(COLUMNS, table, right=COLUMNS[4:7])]
    lines += [f"{counts[name]:4} {name}: {text}" for name, text in measure.VERDICTS.items() if counts[name]]
    reasons = [
        f"{one.row.entry.name}, {one.row.corpus}: {one.verdict}. {one.text}." for one in found if one.text
    ]
    return "\n".join([*lines, "", *reasons])


def _counts(rows: Sequence[GapRow]) -> str:
    """A text with the counts of masks, of published numbers, and of measurements."""
    masks = len({row.entry.name for row in rows})
    numbers = sum(row.number is not None for row in rows)
    return f"{masks} published masks with {numbers} numbers, {len(measure.requests(rows))} measurements"
