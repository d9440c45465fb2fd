"""Score published masks (`experiment=published`): what papers print, what is measured here, and the gap."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pruning.config.groups import PublishedSettings
from pruning.core import storage
from pruning.core.errors import InputError, PruningError, unknown
from pruning.core.terminal import FAILED
from pruning.core.units import bytes_text, duration_text
from pruning.evaluation.corpora import CorpusPerplexity
from pruning.launcher.local import InProcess
from pruning.models.kept_models import PACKAGED
from pruning.published import explain, library, measure
from pruning.published.library import Entry, ModelFacts, Protocol
from pruning.published.measure import Referee, forecast, free_bytes
from pruning.runs.cell import Cell
from pruning.study.grid import Composed, distinct_cells, record_published, say
from pruning.study.text_tables import render

log = logging.getLogger(__name__)


def run_published(configs: Sequence[Composed]) -> int:
    """Run the command, or with `dry_run` print what it would do; returns the exit status.

    Raises InputError, before anything is measured, if a setting is wrong or if a model or text is missing.
    """
    from pruning.config.compose import launcher_of

    cell, settings = _cell(configs), _settings(configs)
    if not isinstance(launcher_of([config for config, _ in configs]), InProcess):
        raise InputError("experiment=published needs launcher=local: submit the command itself as a job.")
    referee = _referee(cell, settings)
    rows, left_out = _rows(cell, settings)
    if settings.dry_run:
        say(dry_run(rows, referee, left_out))
        return 0
    storage.check_writable(cell.results)
    requests = _checked(rows, referee)
    say_plan(rows, requests, referee, left_out)
    found = explain.explained(
        rows, dict(referee.measure(requests)), settings.tolerance, settings.standin is not None
    )
    folder = explain.write(cell.results, found, settings.tolerance)
    say(result(found, folder))
    record_published(cell, folder)
    return FAILED if any(one.verdict == "failed" for one in found) else 0


def _checked(rows: Sequence[measure.Row], referee: Referee) -> list[measure.Request]:
    """The measurements of rows. Raises InputError if a model or text is missing, or windows are too long."""
    measure.check_there([*measure.models_found(rows, referee), *measure.texts_found(rows)])
    requests = measure.requests(rows)
    for request in requests:
        referee.samples(request)
    return requests


def _cell(configs: Sequence[Composed]) -> Cell:
    """The cell whose evaluation, model settings, tracker and folder the command uses."""
    cells = distinct_cells(configs)
    if len(cells) > 1:
        raise InputError(
            f"experiment=published is one comparison, and this command sweeps settings ({len(cells)} cells): only "
            "published.only can have several values."
        )
    if not isinstance(cells[0].evaluation, CorpusPerplexity):
        raise InputError(
            "experiment=published measures perplexity on texts: give eval=perplexity or eval=embedded_windows, "
            "whose corpora are the one protocol."
        )
    return cells[0]


def _settings(configs: Sequence[Composed]) -> PublishedSettings:
    """The settings of the command; each configuration of a sweep adds its names to `only`."""
    plain: list[Any] = [OmegaConf.to_container(config.published, resolve=True) for config, _ in configs]
    names = [name for one in plain for name in _listed(one["only"])]
    settings = PublishedSettings(**{**plain[0], "only": list(dict.fromkeys(names)) or None})
    if not 0 <= settings.tolerance < 1:
        raise InputError(f"published.tolerance={settings.tolerance:g} is out of range: choose 0 to 1.")
    for name in _mapping("models", settings.models):
        if name not in library.models():
            raise unknown("model in published.models", name, library.models())
    return settings


def _mapping(setting: str, given: Any) -> dict[str, str]:
    """The setting as a mapping from names to paths. Raises InputError if it is none."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InputError(
            f"published.{setting}={given} is no mapping: write 'published.{setting}={{NAME: PATH}}'."
        )
    return {str(name): str(path) for name, path in given.items()}


def _listed(only: Any) -> list[str]:
    return [] if only is None else [str(name) for name in only] if isinstance(only, list) else [str(only)]


def _referee(cell: Cell, settings: PublishedSettings) -> Referee:
    limit = cell.evaluation.limit  # type: ignore[attr-defined]
    return Referee(cell.results, cell.model, cell.forward, _mapping("models", settings.models), limit)


def _rows(cell: Cell, settings: PublishedSettings) -> tuple[list[measure.Row], list[Entry]]:
    """The rows of the command, and the entries that a stand-in leaves out."""
    one = {
        name: Protocol.of(corpus, cell.model.dtype, "this project, one protocol")
        for name, corpus in cell.evaluation.corpora.items()  # type: ignore[attr-defined]
    }
    rows = measure.rows(library.chosen(settings.only), one, settings.steps)
    known = {row.corpus for row in rows}
    texts = _mapping("texts", settings.texts)
    for name in texts:
        if name not in known:
            raise unknown("text in published.texts", name, known)
    rows = [measure.on_file(row, texts[row.corpus]) if row.corpus in texts else row for row in rows]
    if settings.standin is None:
        return rows, []
    rows, left_out = measure.standing_in(
        rows, _standin(settings.standin, cell), Protocol(settings.standin_text)
    )
    if not rows:
        raise InputError(
            f"published.standin={settings.standin} fits no published mask that is asked for: their models have "
            f"{', '.join(sorted({str(entry.model.blocks) for entry in left_out}))} blocks."
        )
    return rows, left_out


def _standin(place: str, cell: Cell) -> ModelFacts:
    """The facts about a stand-in, from its configuration."""
    source = "packaged" if place in PACKAGED else "local"
    if source == "local" and not Path(place).expanduser().exists():
        raise InputError(
            f"published.standin={place}: there is no such directory: give a directory that save_pretrained wrote, "
            f"or one of {', '.join(PACKAGED)}."
        )
    where: Mapping[str, Any] = {"name": "standin", "source": source, "path": place}
    model = dataclasses.replace(cell.model, **where, gguf_file=None, revision=None)
    blocks = model.n_blocks
    return ModelFacts("standin", source, place, blocks, float(parameters(model)))


def parameters(model: Any) -> int:
    """The number of parameters of a model, from its configuration alone."""
    from pruning.models.pruned_config import skeleton

    return sum(weight.numel() for weight in skeleton(model.config).parameters())


# What the command for published masks prints: its plan, its dry run, and its table.


def dry_run(rows: Sequence[measure.Row], referee: Referee, left_out: Sequence[Entry]) -> str:
    """What the command would do: masks, protocols, what is there and what is missing, time and memory."""
    models, texts = measure.models_found(rows, referee), measure.texts_found(rows)
    there = not any(found.missing for found in [*models, *texts])
    lines = [_counts(rows), *_masks(rows), "models and texts"]
    lines += [
        f"  {one.what}: {one.state}{f' ({one.missing})' if one.missing else ''}" for one in [*models, *texts]
    ]
    lines += _left_out(left_out)
    lines += ["", *_forecast(rows, referee)]
    lines += [] if there else ["", measure.HELP]
    return "\n".join([*lines, "", "This was a dry run: nothing was measured."])


def say_plan(
    rows: Sequence[measure.Row],
    requests: Sequence[measure.Request],
    referee: Referee,
    left_out: Sequence[Entry],
) -> None:
    """Log how much there is to do, and how much is done."""
    known = sum(referee.known(request) is not None for request in requests)
    log.info("%s; %d of %d measurements are known", _counts(rows), known, len(requests))
    for line in _left_out(left_out):
        log.warning("%s", line)


def result(found: Sequence[explain.Explained], folder: Path) -> str:
    """The table, the count of each verdict with its meaning, and where the files are."""
    counts = Counter(one.verdict for one in found)
    meanings = [f"{counts[verdict]:4} {verdict}: {meaning}" for verdict, meaning in explain.VERDICTS.items()]
    shown = [line for line, verdict in zip(meanings, explain.VERDICTS, strict=True) if counts[verdict]]
    rows = [row[:-1] for row in explain.shown(found)]
    return "\n".join(
        [
            render(explain.COLUMNS[:-1], rows, right=explain.COLUMNS[4:7]),
            *shown,
            "",
            *_why(found),
            f"files    {folder}",
        ]
    )


def _why(found: Sequence[explain.Explained]) -> Iterator[str]:
    """A line for each row whose verdict needs one."""
    for one in found:
        if one.text and one.verdict not in ("none", "no number", "stand-in"):
            yield f"{one.row.entry.name}, {one.row.corpus}: {one.verdict}. {one.text}."


def _counts(rows: Sequence[measure.Row]) -> str:
    """How many masks, numbers and measurements there are."""
    masks = len({row.entry.name for row in rows})
    numbers = sum(row.number is not None for row in rows)
    return f"{masks} published masks with {numbers} numbers, {len(measure.requests(rows))} measurements"


def _masks(rows: Sequence[measure.Row]) -> Iterator[str]:
    """The table of masks with their published numbers."""
    entries = dict.fromkeys(row.entry for row in rows)
    lines = []
    for entry in entries:
        numbers = [row.number for row in rows if row.entry == entry and row.number is not None]
        printed = ", ".join(f"{number.theirs.corpus} {number.value:,.2f}" for number in numbers) or "-"
        removed = " ".join(entry.mask.names()) or "nothing"
        lines.append((entry.name, entry.model.name, entry.method, removed, printed))
    yield render(("mask", "model", "method", "removed", "published"), lines)


def _left_out(entries: Sequence[Entry]) -> list[str]:
    if not entries:
        return []
    counts = Counter((entry.model.name, entry.model.blocks) for entry in entries)
    parts = [f"{count} of {name} ({blocks} blocks)" for (name, blocks), count in counts.items()]
    return [f"left out, because the stand-in has another number of blocks: {', '.join(parts)}"]


def _forecast(rows: Sequence[measure.Row], referee: Referee) -> Iterator[str]:
    """Lines on time and memory. Measurements whose files are here take no time."""
    todo = [request for request in measure.requests(rows) if _known(request, referee) is None]
    if not todo:
        yield "every measurement is known: only the table would be made"
        return
    parts = forecast(todo, lambda request: _tokens(request, referee))
    yield "on this machine, roughly"
    for part in parts:
        yield (
            f"  {part.model} {part.dtype}: {part.count} measurements of {part.tokens:,} tokens, "
            f"{duration_text(part.seconds)}, {bytes_text(part.memory)}"
        )
    free, most = free_bytes(), max(part.memory for part in parts)
    fits = "" if most <= free else "; weights that do not fit are placed as docs/placement.md says"
    total = duration_text(sum(part.seconds for part in parts))
    yield f"  in all {total}; at most {bytes_text(most)} at once, {bytes_text(free)} are free{fits}"


def _known(request: measure.Request, referee: Referee) -> float | None:
    try:
        return referee.known(request)
    except PruningError:  # the model or the text is missing
        return None


def _tokens(request: measure.Request, referee: Referee) -> int | None:
    try:
        return sum(len(row.input_ids) for row in referee.samples(request).rows)
    except PruningError:
        return None
