"""Score published masks: what papers print, what is measured here, and what explains the gap.

depth-pruning referee --dry-run             what it would do, and what is missing
depth-pruning referee                       all masks: needs GPUs and a hub account
depth-pruning referee --only sleb,llama3_8b some: names of files, models or masks
depth-pruning referee --only ours eval=embedded_windows     this project's own masks: no hub, minutes on two cores

SETTING=VALUE is a setting of a launch. `eval` names the one protocol, and the other settings that count are those of
`model`, `forward`, `tracker` and `paths`.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pruning.config.app import composed
from pruning.config.compose import cell_of
from pruning.config.words import check_choices, check_words, explained
from pruning.core import storage
from pruning.core.errors import InputError, unknown
from pruning.core.terminal import FAILED, command_words
from pruning.evaluation.corpora import CorpusPerplexity
from pruning.models.kept_models import PACKAGED
from pruning.published import explain, library, measure
from pruning.published.library import ModelFacts, Protocol, PublishedMask
from pruning.published.measure import GapRow, Referee
from pruning.runs.cell import Cell
from pruning.study.text_tables import page, render, say

log = logging.getLogger(__name__)

STANDIN_TEXT = Protocol("pydoc")  # a stand-in is measured on a text that is always here


def main() -> None:
    """The command `depth-pruning referee`."""
    if status := run_referee(command_words()):
        raise SystemExit(status)


def run_referee(words: Sequence[str]) -> int:
    """Run the command, or with `--dry-run` print what it would do; returns the exit status.

    Raises InputError, before anything is measured, if an argument is wrong or if a model or text is missing.
    """
    asked = _parsed(words)
    cell, evaluation = _cell(asked.settings)
    for name in asked.model:
        if name not in library.models():
            raise unknown("model in --model", name, library.models())
    referee = Referee(cell.results, cell.model, cell.forward, asked.model, evaluation.limit)
    rows, left_out = _rows(cell, evaluation, asked)
    if asked.dry_run:
        say(_dry_run(rows, referee, left_out))
        return 0
    storage.check_writable(cell.results)
    measure.check_there([*measure.models_found(rows, referee), *measure.texts_found(rows)])
    requests = measure.requests(rows)
    for request in requests:
        referee.samples(request)  # raises if its windows are too long
    known = sum(referee.known(request) is not None for request in requests)
    log.info("%s; %d of %d measurements are known", _counts(rows), known, len(requests))
    if left_out:
        log.warning("%s", _left_out(left_out))
    values = dict(referee.measure(requests))
    found = explain.explained(rows, values, asked.tolerance, asked.standin is not None)
    folder = explain.write(cell.results, found, asked.tolerance)
    say(_result(found, folder))
    return FAILED if any(one.verdict == "failed" for one in found) else 0


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    """The arguments. Raises InputError if one is out of range; argparse itself refuses others."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("settings", nargs="*", metavar="SETTING=VALUE", help="settings of a launch")
    add("--only", metavar="NAME,NAME", help="papers, models or masks")
    add("--dry-run", action="store_true", help="measure nothing: say what would be done, and what is missing")
    add("--ends", action="store_true", help="measure the two protocols only, not each aspect between them")
    add(
        "--tolerance", type=float, default=0.01, help="relative difference up to which two perplexities agree"
    )
    add("--model", action="append", default=[], metavar="NAME=DIR", help="a directory with a model")
    add("--text", action="append", default=[], metavar="NAME=FILE", help="a file with a text")
    add("--standin", metavar="DIR", help="a directory or packaged model for all models with its blocks")
    asked = parser.parse_intermixed_args(list(words))
    if not 0 <= asked.tolerance < 1:
        raise InputError(f"--tolerance={asked.tolerance:g} is out of range: choose 0 to 1.")
    asked.only = asked.only.split(",") if asked.only else None
    for option in ("model", "text"):
        given = getattr(asked, option)
        if wrong := [word for word in given if not all(word.partition("=")[1:])]:
            raise InputError(f"--{option} {wrong[0]}: give --{option} NAME=PATH.")
        setattr(asked, option, dict(word.split("=", 1) for word in given))
    return asked


def _cell(words: Sequence[str]) -> tuple[Cell, CorpusPerplexity]:
    """The cell whose model settings, tracker and folder the command uses, and its evaluation; it is never run."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    chosen = {"eval": "perplexity", **dict(word.split("=", 1) for word in words if "=" in word)}
    if "launcher" in chosen:
        raise InputError(
            f"launcher={chosen['launcher']}: submit this command itself as a job; leave launcher out."
        )
    words = [f"eval={chosen['eval']}", *(word for word in words if not word.startswith("eval="))]
    check_words(words)
    check_choices(words)
    names = {"objective": "perplexity", "calibration": "text", "algo": "greedy", **chosen}
    try:
        cell = cell_of(composed(words), names)
    except (HydraException, OmegaConfBaseException) as error:
        raise explained(error, words) from error
    if not isinstance(cell.evaluation, CorpusPerplexity):
        raise InputError(
            f"eval={chosen['eval']} is not perplexity on texts: give eval=perplexity or eval=embedded_windows, whose "
            "corpora are the one protocol."
        )
    return cell, cell.evaluation


def _rows(
    cell: Cell, evaluation: CorpusPerplexity, asked: argparse.Namespace
) -> tuple[list[GapRow], list[PublishedMask]]:
    """The rows of the command, and the entries that a stand-in leaves out."""
    one = {
        name: Protocol.of(corpus, cell.model.dtype, "this project, one protocol")
        for name, corpus in evaluation.corpora.items()
    }
    rows = measure.rows(library.chosen(asked.only), one, not asked.ends)
    known = {row.corpus for row in rows}
    for name in asked.text:
        if name not in known:
            raise unknown("text in --text", name, known)
    rows = [measure.on_file(row, asked.text[row.corpus]) if row.corpus in asked.text else row for row in rows]
    if asked.standin is None:
        return rows, []
    rows, left_out = measure.standing_in(rows, _standin(asked.standin, cell), STANDIN_TEXT)
    if not rows:
        raise InputError(
            f"--standin {asked.standin} fits no published mask that is asked for: their models have "
            f"{', '.join(sorted({str(entry.model.blocks) for entry in left_out}))} blocks."
        )
    return rows, left_out


def _standin(place: str, cell: Cell) -> ModelFacts:
    """The facts about a stand-in, from its configuration."""
    from pruning.models.pruned_config import skeleton

    source = "packaged" if place in PACKAGED else "local"
    if source == "local" and not Path(place).expanduser().exists():
        raise InputError(
            f"--standin {place}: there is no such directory: give a directory that save_pretrained wrote, "
            f"or one of {', '.join(PACKAGED)}."
        )
    where: Mapping[str, Any] = {"name": "standin", "source": source, "path": place}
    model = dataclasses.replace(cell.model, **where, gguf_file=None, revision=None)
    parameters = sum(weight.numel() for weight in skeleton(model.config).parameters())
    return ModelFacts("standin", source, place, model.n_blocks, float(parameters))


# What the command prints: its dry run, and its table.


def _dry_run(rows: Sequence[GapRow], referee: Referee, left_out: Sequence[PublishedMask]) -> str:
    """What the command would do: masks, protocols, what is there and what is missing."""
    masks = []
    for entry in dict.fromkeys(row.entry for row in rows):
        numbers = [row.number for row in rows if row.entry == entry and row.number is not None]
        printed = ", ".join(f"{number.theirs.corpus} {number.value:,.2f}" for number in numbers) or "-"
        removed = " ".join(entry.mask.names()) or "nothing"
        masks.append((entry.name, entry.model.name, entry.method, removed, printed))

    return page(
        "dry_run.txt.jinja",
        counts=_counts(rows),
        masks=render(("mask", "model", "method", "removed", "published"), masks),
        found=[*measure.models_found(rows, referee), *measure.texts_found(rows)],
        left_out=_left_out(left_out) if left_out else "",
        help=measure.HELP,
    )


def _result(found: Sequence[explain.Explained], folder: Path) -> str:
    """The table, the count of each verdict with its meaning, and where the files are."""
    counts = Counter(one.verdict for one in found)
    rows = [row[:-1] for row in explain.shown(found)]
    lines = [render(explain.COLUMNS[:-1], rows, right=explain.COLUMNS[4:7])]
    lines += [f"{counts[name]:4} {name}: {text}" for name, text in explain.VERDICTS.items() if counts[name]]
    lines += [""]
    for one in found:
        if one.text and one.verdict not in ("none", "no number", "stand-in"):
            lines.append(f"{one.row.entry.name}, {one.row.corpus}: {one.verdict}. {one.text}.")
    return "\n".join([*lines, f"files    {folder}"])


def _counts(rows: Sequence[GapRow]) -> str:
    """How many masks, numbers and measurements there are."""
    masks = len({row.entry.name for row in rows})
    numbers = sum(row.number is not None for row in rows)
    return f"{masks} published masks with {numbers} numbers, {len(measure.requests(rows))} measurements"


def _left_out(entries: Sequence[PublishedMask]) -> str:
    counts = Counter((entry.model.name, entry.model.blocks) for entry in entries)
    parts = [f"{count} of {name} ({blocks} blocks)" for (name, blocks), count in counts.items()]
    return f"left out, because the stand-in has another number of blocks: {', '.join(parts)}"
