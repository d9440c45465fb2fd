"""Find out what is missing before anything is measured: models, their weights, and texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pruning.core.errors import InputError, PruningError, UnreachableError, first_line
from pruning.models import checkpoint, loader, preflight
from pruning.models.spec import Model
from pruning.published.measure import Referee
from pruning.published.plan import Row
from pruning.published.protocol import Protocol, first_documents
from pruning.published.records import ModelFacts

HELP = (
    "What can be done: on a machine with a network, log in with `hf auth login` (Llama is gated) and run the same "
    "command; or give what is there, 'published.models={NAME: DIR}' and 'published.texts={wikitext2: FILE}'; or "
    "leave masks out with published.only=NAME,NAME. Without any of these, `python launch.py "
    "experiment=published_ours` runs the same comparison on this project's own masks, and published.dry_run=true "
    "prints what would be run."
)


@dataclass(frozen=True)
class Found:
    """Whether a model or a text is there: `missing` says what is wrong, or is None; `state` is for people to read."""

    what: str
    state: str
    missing: str | None = None


def models_found(rows: Sequence[Row], referee: Referee) -> list[Found]:
    """For each model of the rows, whether its configuration, tokenizer and weights can be had.

    Raises InputError if a model has another number of blocks than its masks.
    """
    return [_model(model, referee) for model in dict.fromkeys(row.entry.model for row in rows)]


def texts_found(rows: Sequence[Row]) -> list[Found]:
    """For each text of the rows, whether its first document can be read."""
    texts: dict[Protocol, str] = {}
    for row in rows:
        for protocol in row.protocols():
            texts.setdefault(Protocol().on(replace(protocol, join=None, documents=None)), row.corpus)
    return [_text(name, protocol) for protocol, name in texts.items()]


def check_there(found: Iterable[Found]) -> None:
    """Raise one InputError for everything that is missing, with what can be done."""
    if missing := [one for one in found if one.missing is not None]:
        lines = [f"  {one.what}: {one.missing}" for one in missing]
        raise InputError("\n".join(["These are missing, so nothing was measured:", *lines, HELP]))


def _model(model: ModelFacts, referee: Referee) -> Found:
    settings = referee.settings(model, "bfloat16")
    what = f"model {model.name} ({settings.path})"
    try:
        preflight.check_model(settings)
        loader.tokenizer(settings)
    except PruningError as error:
        if isinstance(error, InputError):
            raise
        return Found(what, "missing", _why(error))
    referee.check_blocks(model)
    return _weights(what, settings)


def _weights(what: str, settings: Model) -> Found:
    if settings.source != "hub" or checkpoint.stored_folder(settings) is not None:
        return Found(what, "here")
    if _offline():
        return Found(what, "missing", "its weights are not in the cache, and the hub cannot be reached")
    return Found(what, "to be fetched from the hub")


def _text(name: str, protocol: Protocol) -> Found:
    what = f"text {name} ({protocol.described('text')})"
    try:
        first_documents(protocol, f"the text {name}")
    except PruningError as error:
        return Found(what, "missing", _why(error))
    return Found(what, "here")


def _why(error: PruningError) -> str:
    """Why something cannot be had, in a few words."""
    if isinstance(error, UnreachableError) and _offline():
        return "it is not in the cache, and the hub cannot be reached"
    return first_line(error)


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.is_offline_mode())
