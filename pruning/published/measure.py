"""Measure masks in protocols. Each measurement is a file, so a command that was stopped continues where it was."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from huggingface_hub import constants

from pruning.core import storage
from pruning.core.errors import InputError, PruningError, UnreachableError, first_line
from pruning.core.mask import Mask
from pruning.core.storage import digest
from pruning.core.wheels import commit_of
from pruning.evaluation import Data, Measured
from pruning.evaluation.corpora import corpus_perplexity
from pruning.models import preflight
from pruning.models.handle import Model
from pruning.published.library import ModelFacts, Protocol, PublishedMask, PublishedNumber
from pruning.runs.cell import FORMAT, ForwardSettings, forward_with
from pruning.runs.measurements import Evaluator
from pruning.runs.prepare import Reader, check_evaluation

if TYPE_CHECKING:
    from pruning.calibration.samples import Samples
    from pruning.engine.forward import Forward


log = logging.getLogger(__name__)
FOLDER = "published"


# What to measure: for each published number a row, and for each row the measurements that it needs


@dataclass(frozen=True)
class Measurement:
    """One measurement: a mask of a model in a protocol; `corpus` names the text, for people to read."""

    model: ModelFacts
    corpus: str
    protocol: Protocol
    mask: Mask


@dataclass(frozen=True)
class GapRow:
    """A published number of a mask, the one protocol, their protocol, and the steps from the one to the other.

    `number` is None if no source prints a number; `one` is None if the one protocol does not have the number's text;
    `own` is None if the number's protocol cannot be followed. Each step is the name of an aspect and a protocol.
    """

    entry: PublishedMask
    corpus: str
    number: PublishedNumber | None
    one: Protocol | None
    own: Protocol | None
    steps: tuple[tuple[str, Protocol], ...] = ()

    def request(self, protocol: Protocol) -> Measurement:
        """The measurement of this row's mask in a protocol."""
        return Measurement(self.entry.model, self.corpus, protocol, self.entry.mask)

    def requests(self) -> list[Measurement]:
        """The distinct measurements of this row."""
        protocols = (self.one, *(protocol for _, protocol in self.steps), self.own)
        return [self.request(protocol) for protocol in dict.fromkeys(protocols) if protocol is not None]

    def changed(self, change: Callable[[Protocol], Protocol]) -> GapRow:
        """The row with its protocols changed, and the steps between these."""
        one, own = (None if protocol is None else change(protocol) for protocol in (self.one, self.own))
        return replace(self, one=one, own=own, steps=_path(one, own, bool(self.steps)))


def rows(entries: Sequence[PublishedMask], one: Mapping[str, Protocol], steps: bool = True) -> list[GapRow]:
    """The rows of entries; `one` is the one protocol of each text. Without `steps`, no aspect is changed alone.

    Settings that a source does not state are those of the one protocol.
    """
    found = []
    for entry in entries:
        for number in entry.numbers:
            theirs, ours = number.theirs, one.get(number.theirs.corpus)
            own = None if theirs.not_reproduced is not None else theirs.protocol
            if own is not None and ours is not None:
                own = replace(own, **{name: getattr(ours, name) for name in theirs.unknown})
            found.append(GapRow(entry, theirs.corpus, number, ours, own, _path(ours, own, steps)))
        if not entry.numbers and one:
            corpus, protocol = next(iter(one.items()))
            found.append(GapRow(entry, corpus, None, protocol, None))
    return found


def _path(one: Protocol | None, own: Protocol | None, steps: bool) -> tuple[tuple[str, Protocol], ...]:
    return tuple(one.path_to(own)) if steps and one is not None and own is not None else ()


def standing_in(
    rows: Sequence[GapRow], model: ModelFacts, text: Protocol
) -> tuple[list[GapRow], list[PublishedMask]]:
    """The rows on a stand-in and on one text for all; and the entries whose models have another number of blocks."""
    fits = [row for row in rows if row.entry.model.blocks == model.blocks]
    others = {row.entry.name: row.entry for row in rows if row.entry.model.blocks != model.blocks}
    moved = [row.changed(lambda protocol: protocol.on(text)) for row in fits]
    return [replace(row, entry=replace(row.entry, model=model)) for row in moved], list(others.values())


def on_file(row: GapRow, file: str) -> GapRow:
    """The row on a local file in place of its text; how documents are joined and cut stays as it is."""
    here: dict[str, Any] = {"source": "file", "path": file, "stream": False}
    here |= {"name": None, "split": "test", "revision": None}
    return row.changed(lambda protocol: replace(protocol, **here))


def requests(rows: Sequence[GapRow]) -> list[Measurement]:
    """The distinct measurements of all rows; those of one model and precision are adjacent."""
    distinct = dict.fromkeys(request for row in rows for request in row.requests())
    models = {name: i for i, name in enumerate(dict.fromkeys(request.model.name for request in distinct))}
    return sorted(
        distinct, key=lambda r: (models[r.model.name], r.protocol.dtype != "bfloat16", r.protocol.dtype)
    )


# Measure


@dataclass(frozen=True)
class ProtocolPerplexity:
    """The perplexity in one protocol, in the form of an evaluation."""

    protocol: Protocol
    limit: int | None = None

    compares: ClassVar[bool] = False
    averages: ClassVar[bool] = False
    allow_overlap: ClassVar[bool] = True

    def files(self) -> tuple[str, ...]:
        """The local file of the text, if it is one."""
        return (self.protocol.path,) if self.protocol.source == "file" and self.protocol.path else ()

    def data(self, tokenizer: Any) -> Mapping[str, Data]:
        """The windows."""
        return {"ppl/text": self.protocol.samples(tokenizer, "text", self.limit)}

    def measure(self, forward: Forward, name: str, data: Data, mask: Mask) -> Measured:
        """The perplexity, with a record of the protocol."""
        measured = corpus_perplexity(forward, name, data, mask, self.protocol.corpus, self.limit)
        return replace(measured, how={**measured.how, "protocol": asdict(self.protocol)})


@dataclass
class Referee:
    """Measures requests, and keeps the measurements in `results`/published.

    `base` has the settings that say how models are loaded: device map, memory limits, attention. `places` maps models
    of published masks to directories that hold them; `limit` bounds the windows of each protocol.
    """

    results: Path
    base: Model
    forward: ForwardSettings
    places: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None
    _drawn: dict[tuple[str, Protocol], Samples] = field(default_factory=dict)

    def settings(self, model: ModelFacts, dtype: str) -> Model:
        """The settings to load a model with, in a precision."""
        place = self.places.get(model.name)
        source, path = ("local", place) if place else (model.source, model.path)
        where: dict[str, Any] = {"name": model.name, "source": source, "path": path, "dtype": dtype}
        return replace(self.base, **where, revision=None, gguf_file=None)

    def samples(self, request: Measurement) -> Samples:
        """The windows of a request. Raises InputError if they are too long for the model, and as `Corpus.draw`."""
        settings = self.settings(request.model, request.protocol.dtype)
        text = replace(request.protocol, dtype="bfloat16")  # precision changes no token
        key = (str(settings.path), text)
        if key not in self._drawn:
            tokenizer = settings.tokenizer
            drawn = text.samples(tokenizer, f"the protocol of {request.corpus}", self.limit)
            reader = Reader.of(request.model.name, settings.config, tokenizer)
            check_evaluation({f"ppl/{request.corpus}": drawn}, reader)
            self._drawn[key] = drawn
        return self._drawn[key]

    def known(self, request: Measurement) -> float | None:
        """The perplexity if it is in its file; else None."""
        name = f"ppl/{request.corpus}"
        path = self._evaluator(request, None).path(name, request.mask)
        return float(storage.read_json(path)["metrics"][name]) if path.exists() else None

    def measure(self, requests: Sequence[Measurement]) -> Iterator[tuple[Measurement, float | PruningError]]:
        """Yield each request with its perplexity or with the error of its measurement.

        A model is loaded only if something is missing, and once for each precision.
        """
        from pruning.engine.devices import exact

        for (_, dtype), part in groupby(requests, key=lambda r: (r.model.name, r.protocol.dtype)):
            values = {request: self.known(request) for request in part}
            yield from ((request, value) for request, value in values.items() if value is not None)
            missing = [request for request, value in values.items() if value is None]
            if not missing:
                continue
            exact()
            model = missing[0].model
            try:
                forward = forward_with(self.forward, self.settings(model, dtype).load())
            except PruningError as error:
                log.error("%s in %s cannot be loaded: %s", model.name, dtype, error)
                yield from ((request, error) for request in missing)
                continue
            for number, request in enumerate(missing, start=1):
                log.info("%s %s: measurement %d of %d", model.name, dtype, number, len(missing))
                try:
                    metrics = self._evaluator(request, forward)(request.mask).metrics
                    yield request, float(metrics[f"ppl/{request.corpus}"])
                except PruningError as error:
                    log.error("%s without %s: %s", model.name, request.mask.described(), error)
                    yield request, error
            del forward  # the next model needs its memory

    def _evaluator(self, request: Measurement, forward: Any) -> Evaluator:
        name, samples = f"ppl/{request.corpus}", self.samples(request)
        settings = self.settings(request.model, request.protocol.dtype)
        revision = commit_of(settings.path, settings.revision) if settings.source == "hub" else None
        key = digest([FORMAT, settings.identity(), revision, samples.sha256])
        folder = self.results / FOLDER / request.model.name / f"{name.replace('/', '-')}-{key}"
        evaluation = ProtocolPerplexity(request.protocol, self.limit)
        return Evaluator(evaluation, {name: samples}, forward, {name: folder})


# Find out what is missing before anything is measured: models, their weights, and texts

HELP = (
    "What can be done: on a machine with a network, log in with `hf auth login` (Llama is gated) and run the same "
    "command; or give what is there, `--model NAME=DIR` and `--text wikitext2=FILE`; or leave masks out with "
    "`--only NAME,NAME`. Without any of these, `--only ours eval=embedded_windows` runs the same comparison on this "
    "project's own masks, and `--dry-run` prints what would be run."
)


@dataclass(frozen=True)
class Presence:
    """Whether a model or a text is there: `missing` says what is wrong, or is None; `state` is for people to read."""

    what: str
    state: str
    missing: str | None = None


def models_found(rows: Sequence[GapRow], referee: Referee) -> list[Presence]:
    """For each model of the rows, whether its configuration, tokenizer and weights can be had.

    Raises InputError if a model has another number of blocks than its masks.
    """
    found = []
    for model in dict.fromkeys(row.entry.model for row in rows):
        settings = referee.settings(model, "bfloat16")
        what = f"model {model.name} ({settings.path})"
        try:
            preflight.check_model(settings)
            _ = settings.tokenizer  # raises PruningError if it cannot be read
        except InputError:
            raise
        except PruningError as error:
            found.append(Presence(what, "missing", _why(error)))
            continue
        if (count := settings.n_blocks) != model.blocks:
            raise InputError(
                f"{settings.path} has {count} blocks, and the published masks of {model.name} "
                f"are for {model.blocks}: give the model that they were made for."
            )
        if settings.source != "hub" or settings.is_cached:
            found.append(Presence(what, "here"))
        elif constants.is_offline_mode():
            why = "its weights are not in the cache, and the hub cannot be reached"
            found.append(Presence(what, "missing", why))
        else:
            found.append(Presence(what, "to be fetched from the hub"))
    return found


def texts_found(rows: Sequence[GapRow]) -> list[Presence]:
    """For each text of the rows, whether its first document can be read."""
    texts: dict[Protocol, str] = {}
    for request in (request for row in rows for request in row.requests()):
        text = Protocol().on(replace(request.protocol, join=None, documents=None))
        texts.setdefault(text, request.corpus)
    found = []
    for protocol, name in texts.items():
        what = f"text {name} ({protocol.described('text')})"
        try:
            next(iter(protocol.corpus.text.documents(f"the text {name}")), None)
            found.append(Presence(what, "here"))
        except PruningError as error:
            found.append(Presence(what, "missing", _why(error)))
    return found


def _why(error: PruningError) -> str:
    """Why something cannot be had, in a few words."""
    if isinstance(error, UnreachableError) and constants.is_offline_mode():
        return "it is not in the cache, and the hub cannot be reached"
    return first_line(error)


def check_there(found: Iterable[Presence]) -> None:
    """Raise one InputError for everything that is missing, with what can be done."""
    if missing := [one for one in found if one.missing is not None]:
        lines = [f"  {one.what}: {one.missing}" for one in missing]
        raise InputError("\n".join(["These are missing, so nothing was measured:", *lines, HELP]))
