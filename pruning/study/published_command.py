"""Score published masks (`experiment=published`): what papers print, what is measured here, and the gap."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pruning.config.schema import PublishedSettings
from pruning.core import atomic_files
from pruning.core.command import FAILED
from pruning.core.errors import InputError, unknown
from pruning.evaluation.perplexity import CorpusPerplexity
from pruning.launcher.local import InProcess
from pruning.models import loader
from pruning.models.packaged import PACKAGED
from pruning.published import check, explain, library, plan, table
from pruning.published.measure import Referee
from pruning.published.protocol import Protocol
from pruning.published.records import Entry, ModelFacts
from pruning.runs.cell import Cell
from pruning.study import published_text
from pruning.study.grid import Composed, distinct_cells
from pruning.study.outcome import say
from pruning.study.trackers import record_published

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
        say(published_text.dry_run(rows, referee, left_out))
        return 0
    atomic_files.check_writable(cell.results)
    requests = _checked(rows, referee)
    published_text.say_plan(rows, requests, referee, left_out)
    found = explain.explained(
        rows, dict(referee.measure(requests)), settings.tolerance, settings.standin is not None
    )
    folder = table.write(cell.results, found, settings.tolerance)
    say(published_text.result(found, folder))
    record_published(cell, folder)
    return FAILED if any(one.verdict == "failed" for one in found) else 0


def _checked(rows: Sequence[plan.Row], referee: Referee) -> list[plan.Request]:
    """The measurements of rows. Raises InputError if a model or text is missing, or windows are too long."""
    check.check_there([*check.models_found(rows, referee), *check.texts_found(rows)])
    requests = plan.requests(rows)
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


def _rows(cell: Cell, settings: PublishedSettings) -> tuple[list[plan.Row], list[Entry]]:
    """The rows of the command, and the entries that a stand-in leaves out."""
    one = {
        name: Protocol.of(corpus, cell.model.dtype, "this project, one protocol")
        for name, corpus in cell.evaluation.corpora.items()  # type: ignore[attr-defined]
    }
    rows = plan.rows(library.chosen(settings.only), one, settings.steps)
    known = {row.corpus for row in rows}
    texts = _mapping("texts", settings.texts)
    for name in texts:
        if name not in known:
            raise unknown("text in published.texts", name, known)
    rows = [plan.on_file(row, texts[row.corpus]) if row.corpus in texts else row for row in rows]
    if settings.standin is None:
        return rows, []
    rows, left_out = plan.standing_in(rows, _standin(settings.standin, cell), Protocol(settings.standin_text))
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
    blocks = loader.n_blocks(model)
    return ModelFacts("standin", source, place, blocks, float(parameters(model)))


def parameters(model: Any) -> int:
    """The number of parameters of a model, from its configuration alone."""
    from pruning.models.pruned_config import skeleton

    return sum(weight.numel() for weight in skeleton(loader.config(model)).parameters())
