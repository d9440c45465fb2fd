"""Measure masks in protocols. Each measurement is a file, so a command that was stopped continues where it was."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import psutil
import torch

from pruning.core import storage
from pruning.core.errors import InputError, PruningError, UnreachableError, first_line
from pruning.core.mask import Mask
from pruning.core.storage import digest
from pruning.core.wheels import commit_of
from pruning.evaluation import Data, Measured
from pruning.evaluation.corpora import corpus_perplexity
from pruning.models import loader, preflight
from pruning.models.products import HALVES, float32_is_faster
from pruning.models.spec import Model
from pruning.published.library import Entry, ModelFacts, Number, Protocol, first_documents
from pruning.runs.cell import FORMAT, ForwardSettings
from pruning.runs.loaded_cell import forward_with
from pruning.runs.measurements import Evaluator
from pruning.runs.prepare import Reader, check_evaluation

if TYPE_CHECKING:
    from pruning.calibration.samples import Samples
    from pruning.engine.forward import Forward


log = logging.getLogger(__name__)
FOLDER = "published"


@dataclass(frozen=True)
class Perplexity:
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
        return dataclasses.replace(
            measured, how={**measured.how, "protocol": dataclasses.asdict(self.protocol)}
        )


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
        where: dict[str, Any] = {"source": model.source, "path": model.path}
        if place := self.places.get(model.name):
            where = {"source": "local", "path": place}
        return dataclasses.replace(
            self.base, name=model.name, **where, dtype=dtype, revision=None, gguf_file=None
        )

    def check_blocks(self, model: ModelFacts) -> None:
        """Raise InputError if the model has another number of blocks than its published masks were made for."""
        settings = self.settings(model, "bfloat16")
        count = loader.n_blocks(settings)
        if count != model.blocks:
            raise InputError(
                f"{settings.path} has {count} blocks, and the published masks of {model.name} "
                f"are for {model.blocks}: give the model that they were made for."
            )

    def samples(self, request: Request) -> Samples:
        """The windows of a request. Raises InputError if they are too long for the model, and as `Corpus.draw`."""
        settings = self.settings(request.model, request.protocol.dtype)
        # Precision changes no token, so it is left out here.
        text = dataclasses.replace(request.protocol, dtype="bfloat16")
        key = (str(settings.path), text)
        if key not in self._drawn:
            tokenizer = loader.tokenizer(settings)
            drawn = text.samples(tokenizer, f"the protocol of {request.corpus}", self.limit)
            reader = Reader.of(request.model.name, loader.config(settings), tokenizer)
            check_evaluation({f"ppl/{request.corpus}": drawn}, reader)
            self._drawn[key] = drawn
        return self._drawn[key]

    def path(self, request: Request) -> Path:
        """The file of a measurement."""
        return self._evaluator(request, None).path(self._metric(request), request.mask)

    def known(self, request: Request) -> float | None:
        """The perplexity if it is in its file; else None."""
        path = self.path(request)
        return float(storage.read_json(path)["metrics"][self._metric(request)]) if path.exists() else None

    def measure(self, requests: Sequence[Request]) -> Iterator[tuple[Request, float | PruningError]]:
        """Yield each request with its perplexity or with the error of its measurement.

        A model is loaded only if something is missing, and once for each precision.
        """
        for (_, dtype), part in groupby(requests, key=lambda r: (r.model.name, r.protocol.dtype)):
            batch = list(part)
            missing = [request for request in batch if self.known(request) is None]
            yield from ((r, value) for r in batch if (value := self.known(r)) is not None)
            if missing:
                yield from self._measured(missing, dtype)

    def _measured(
        self, requests: Sequence[Request], dtype: str
    ) -> Iterator[tuple[Request, float | PruningError]]:
        from pruning.engine.devices import exact

        exact(self.forward.tf32)
        model = requests[0].model
        try:
            forward = forward_with(self.forward, loader.load(self.settings(model, dtype)))
        except PruningError as error:
            log.error("%s in %s cannot be loaded: %s", model.name, dtype, error)
            yield from ((request, error) for request in requests)
            return
        for number, request in enumerate(requests, start=1):
            log.info("%s %s: measurement %d of %d", model.name, dtype, number, len(requests))
            try:
                metrics = self._evaluator(request, forward)(request.mask).metrics
                yield request, float(metrics[self._metric(request)])
            except PruningError as error:
                log.error("%s without %s: %s", model.name, request.mask.described(), error)
                yield request, error

    def _evaluator(self, request: Request, forward: Any) -> Evaluator:
        name, samples = self._metric(request), self.samples(request)
        settings = self.settings(request.model, request.protocol.dtype)
        revision = commit_of(settings.path, settings.revision) if settings.source == "hub" else None
        key = digest([FORMAT, settings.identity(), revision, samples.sha256])
        folder = self.results / FOLDER / request.model.name / f"{name.replace('/', '-')}-{key}"
        return Evaluator(Perplexity(request.protocol, self.limit), {name: samples}, forward, {name: folder})

    def _metric(self, request: Request) -> str:
        return f"ppl/{request.corpus}"


# Find out what is missing before anything is measured: models, their weights, and texts.

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
    if settings.source != "hub" or loader.stored_folder(settings) is not None:
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


# Forecast how long the measurements take here, and how much memory, without loading a model.
#
# A token costs about two operations per parameter that is kept. How many operations this machine does in a second is
# measured with products of matrices. A model's passes reach about `REACHED` of that, so all times are rough.

REACHED = 0.5
EACH = 0.5  # seconds that a measurement takes whatever its size
TOKENS = {"wikitext2": 340_000, "c4": 525_000}  # of a text that is not here: with Llama-2's tokenizer
OTHER = 300_000
SIZES = {"float32": 4, "float64": 8}  # bytes of a weight; 2 for the others
HEAD = 1.15  # weights, plus hidden states and logits of a batch


@dataclass(frozen=True)
class Forecast:
    """Seconds, bytes and tokens of the measurements of one model in one precision."""

    model: str
    dtype: str
    count: int
    tokens: int
    seconds: float
    memory: int


def forecast(requests: Sequence[Request], tokens_of: Callable[[Request], int | None]) -> list[Forecast]:
    """One forecast for each model and precision. `tokens_of` counts a request's tokens; None if it cannot."""
    groups: dict[tuple[str, str], list[Request]] = {}
    for request in requests:
        groups.setdefault((request.model.name, request.protocol.dtype), []).append(request)
    rates = {dtype: operations_per_second(dtype) for dtype in {dtype for _, dtype in groups}}
    return [_forecast(part, dtype, rates[dtype], tokens_of) for (_, dtype), part in groups.items()]


def _forecast(
    requests: Sequence[Request], dtype: str, rate: float, tokens_of: Callable[[Request], int | None]
) -> Forecast:
    model, work, total = requests[0].model, 0.0, 0
    for request in requests:
        tokens = tokens_of(request) or _usual(request)
        kept = 1 - len(request.mask.dropped) / request.mask.n_units
        total += tokens
        work += 2.0 * model.parameters * kept * tokens
    seconds = EACH * len(requests) + work / (REACHED * rate)
    memory = int(HEAD * model.parameters * SIZES.get(dtype, 2))
    return Forecast(model.name, dtype, len(requests), total, seconds, memory)


def _usual(request: Request) -> int:
    """The number of tokens of a text that is not here."""
    windows = request.protocol.windows
    most = TOKENS.get(request.corpus, OTHER)
    return most if windows is None else min(most, windows * request.protocol.window)


def operations_per_second(dtype: str, seconds: float = 0.3) -> float:
    """How many multiplications and additions this machine does, in products of matrices of this type."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows, width = (4096, 8192) if device == "cuda" else (512, 2048)
    kind = getattr(torch, dtype)
    if device == "cpu" and kind in HALVES and float32_is_faster(kind):
        kind = torch.float32
    a, b = (torch.ones(shape, dtype=kind, device=device) for shape in ((rows, width), (width, width)))
    _product(a, b)
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds or done < 1:
        _product(a, b)
        done += 1
    return done * 2.0 * rows * width * width / (time.perf_counter() - started)


def _product(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.matmul(a, b)
    if a.is_cuda:
        torch.cuda.synchronize()


def free_bytes() -> int:
    """The bytes that are free on the GPU with the most, or in memory if there is no GPU."""
    if torch.cuda.is_available():
        return max(int(torch.cuda.mem_get_info(i)[0]) for i in range(torch.cuda.device_count()))
    return int(psutil.virtual_memory().available)


# What to measure: for each published number a row, and for each row the measurements that it needs.


@dataclass(frozen=True)
class Request:
    """One measurement: a mask of a model in a protocol; `corpus` names the text, for people to read."""

    model: ModelFacts
    corpus: str
    protocol: Protocol
    mask: Mask


@dataclass(frozen=True)
class Row:
    """A published number of a mask, the one protocol, their protocol, and the steps from the one to the other.

    `number` is None if no source prints a number; `one` is None if the one protocol does not have the number's text;
    `own` is None if the number's protocol cannot be followed. Each step is the name of an aspect and a protocol.
    """

    entry: Entry
    corpus: str
    number: Number | None
    one: Protocol | None
    own: Protocol | None
    steps: tuple[tuple[str, Protocol], ...] = ()

    def protocols(self) -> Iterator[Protocol]:
        """All protocols in which this row's mask is measured."""
        yield from dict.fromkeys(
            p for p in (self.one, *(p for _, p in self.steps), self.own) if p is not None
        )

    def requests(self) -> Iterator[Request]:
        """The measurements of this row."""
        for protocol in self.protocols():
            yield Request(self.entry.model, self.corpus, protocol, self.entry.mask)


def rows(entries: Sequence[Entry], one: Mapping[str, Protocol], steps: bool = True) -> list[Row]:
    """The rows of entries; `one` is the one protocol of each text. Without `steps`, no aspect is changed alone."""
    return [row for entry in entries for row in _rows(entry, one, steps)]


def _rows(entry: Entry, one: Mapping[str, Protocol], steps: bool) -> Iterator[Row]:
    for number in entry.numbers:
        ours = one.get(number.theirs.corpus)
        own = _own(number, ours)
        path = tuple(ours.path_to(own)) if steps and ours is not None and own is not None else ()
        yield Row(entry, number.theirs.corpus, number, ours, own, path)
    if not entry.numbers and one:
        corpus, protocol = next(iter(one.items()))
        yield Row(entry, corpus, None, protocol, None)


def _own(number: Number, one: Protocol | None) -> Protocol | None:
    """A number's protocol; settings that its source does not state are those of the one protocol."""
    theirs = number.theirs
    if theirs.not_reproduced is not None:
        return None
    if one is None:
        return theirs.protocol
    return replace(theirs.protocol, **{name: getattr(one, name) for name in theirs.unknown})


def standing_in(rows: Sequence[Row], model: ModelFacts, text: Protocol) -> tuple[list[Row], list[Entry]]:
    """The rows on a stand-in and on one text for all; and the entries whose models have another number of blocks."""
    fits = [row for row in rows if row.entry.model.blocks == model.blocks]
    others = {row.entry.name: row.entry for row in rows if row.entry.model.blocks != model.blocks}
    return [_on(row, model, text) for row in fits], list(others.values())


def _on(row: Row, model: ModelFacts, text: Protocol) -> Row:
    one = None if row.one is None else row.one.on(text)
    own = None if row.own is None else row.own.on(text)
    path = tuple(one.path_to(own)) if row.steps and one is not None and own is not None else ()
    return replace(row, entry=replace(row.entry, model=model), one=one, own=own, steps=path)


def on_file(row: Row, file: str) -> Row:
    """The row on a local file in place of its text; how documents are joined and cut stays as it is."""
    here: dict[str, Any] = {"source": "file", "path": file, "stream": False}
    here |= {"name": None, "split": "test", "revision": None}

    def moved(protocol: Protocol | None) -> Protocol | None:
        return None if protocol is None else replace(protocol, **here)

    one, own = moved(row.one), moved(row.own)
    path = tuple(one.path_to(own)) if row.steps and one is not None and own is not None else ()
    return replace(row, one=one, own=own, steps=path)


def requests(rows: Sequence[Row]) -> list[Request]:
    """The distinct measurements of all rows; those of one model and precision are adjacent."""
    distinct = dict.fromkeys(request for row in rows for request in row.requests())
    models = {name: i for i, name in enumerate(dict.fromkeys(request.model.name for request in distinct))}
    return sorted(
        distinct, key=lambda r: (models[r.model.name], r.protocol.dtype != "bfloat16", r.protocol.dtype)
    )
