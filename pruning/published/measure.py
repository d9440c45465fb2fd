"""Measure masks under protocols, and say what explains the gap between a published number and its measurement.

Each measurement is stored in a file. If a stopped command is run again, it repeats no finished measurement.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import constants

from pruning.core import storage
from pruning.core.errors import InputError, PruningError, UnreachableError, first_line
from pruning.core.mask import Mask
from pruning.core.storage import digest
from pruning.core.wheels import commit_of
from pruning.evaluation.corpora import CorpusPerplexity
from pruning.models.handle import Model
from pruning.published.library import PAIRINGS, ModelFacts, Protocol, PublishedMask, PublishedNumber
from pruning.runs.cell import FORMAT, forward_of
from pruning.runs.measurements import Evaluator
from pruning.runs.prepare import Reader, check_evaluation

if TYPE_CHECKING:
    from pruning.calibration.samples import Samples


log = logging.getLogger(__name__)
FOLDER = "published"


# What to measure: one row for each published number, and the measurements that each row needs.


@dataclass(frozen=True)
class Measurement:
    """One measurement: a mask of a model under a protocol; `corpus` is the name of the text."""

    model: ModelFacts
    corpus: str
    protocol: Protocol
    mask: Mask

    @property
    def name(self) -> str:
        """The name of the metric."""
        return f"ppl/{self.corpus}"


@dataclass(frozen=True)
class GapRow:
    """A mask's published `number`, the protocol of that number (`own`), and the text's common protocol (`one`).

    `number` is None if no source prints a number. `one` is None if the text has no common protocol. `own` is
    None if there is no number, or if the number's protocol cannot be followed here.
    """

    entry: PublishedMask
    corpus: str
    number: PublishedNumber | None
    one: Protocol | None
    own: Protocol | None

    def request(self, protocol: Protocol) -> Measurement:
        """The measurement of this row's mask under a protocol."""
        return Measurement(self.entry.model, self.corpus, protocol, self.entry.mask)

    def requests(self) -> list[Measurement]:
        """The distinct measurements of this row."""
        return [self.request(one) for one in dict.fromkeys((self.one, self.own)) if one is not None]


def rows(
    entries: Sequence[PublishedMask], one: Mapping[str, Protocol], files: Mapping[str, str] | None = None
) -> list[GapRow]:
    """A row for each published number of the masks in `entries`, and a row for each mask without a number.

    `one` maps each text to its common protocol, which also fills in settings that a source does not state.
    `files` maps texts to local files that replace them. Their documents are joined and cut as the protocol says.
    """

    def here(corpus: str, protocol: Protocol | None) -> Protocol | None:
        if protocol is None or files is None or corpus not in files:
            return protocol
        place: dict[str, Any] = {"source": "file", "path": files[corpus], "stream": False}
        return replace(protocol, **place, name=None, split="test", revision=None)

    found = []
    for entry in entries:
        for number in entry.numbers:
            theirs, ours = number.theirs, one.get(corpus := number.theirs.corpus)
            own = None if theirs.not_reproduced is not None else theirs.protocol
            if own is not None and ours is not None:
                own = replace(own, **{name: getattr(ours, name) for name in theirs.unknown})
            found.append(GapRow(entry, corpus, number, here(corpus, ours), here(corpus, own)))
        if not entry.numbers and one:
            corpus, protocol = next(iter(one.items()))
            found.append(GapRow(entry, corpus, None, here(corpus, protocol), None))
    return found


def requests(rows: Sequence[GapRow]) -> list[Measurement]:
    """The distinct measurements of all rows; measurements with the same model and precision are adjacent."""
    distinct = dict.fromkeys(request for row in rows for request in row.requests())
    models = list(dict.fromkeys(request.model for request in distinct))
    return sorted(distinct, key=lambda request: (models.index(request.model), request.protocol.dtype))


@dataclass
class Referee:
    """Measures requests, and keeps the measurements in `results`/published.

    `base` has the settings that apply to all models, such as `device_map`. `places` maps names of models to
    local directories that contain them. `limit` is the most windows to measure per protocol.
    """

    results: Path
    base: Model
    places: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None
    _drawn: dict[tuple[str, Protocol], Samples] = field(default_factory=dict)

    def settings(self, model: ModelFacts, dtype: str) -> Model:
        """The settings that load a model in the precision `dtype`."""
        place = self.places.get(model.name)
        source, path = ("local", place) if place else (model.source, model.path)
        where: dict[str, Any] = {"name": model.name, "source": source, "path": path, "dtype": dtype}
        return replace(self.base, **where, revision=None, gguf_file=None)

    def samples(self, request: Measurement) -> Samples:
        """The windows of a request's text. Raises as `Corpus.draw` does, and InputError if windows are too long."""
        settings = self.settings(request.model, request.protocol.dtype)
        text = replace(request.protocol, dtype="bfloat16")  # tokens do not depend on the precision
        key = (str(settings.path), text)
        if key not in self._drawn:
            where = f"the protocol of {request.corpus}"
            text.check(where)
            drawn = text.draw(settings.tokenizer, where, self.limit)
            reader = Reader.of(request.model.name, settings.config, settings.tokenizer)
            check_evaluation({request.name: drawn}, reader)
            self._drawn[key] = drawn
        return self._drawn[key]

    def known(self, request: Measurement) -> float | None:
        """The perplexity that an earlier run measured; None if there is no such measurement."""
        path = self._evaluator(request, None).path(request.name, request.mask)
        return float(storage.read_json(path)["metrics"][request.name]) if path.exists() else None

    def measure(self, requests: Sequence[Measurement]) -> Iterator[tuple[Measurement, float | PruningError]]:
        """Yield each request with its perplexity, or with the error that its measurement raised.

        A model is loaded only if a measurement is missing, and only once for each precision.
        """
        from pruning.engine.devices import exact

        for (model, dtype), part in groupby(requests, key=lambda r: (r.model, r.protocol.dtype)):
            values = {request: self.known(request) for request in part}
            yield from ((request, value) for request, value in values.items() if value is not None)
            missing = [request for request, value in values.items() if value is None]
            if not missing:
                continue
            exact()
            try:
                forward = forward_of(self.settings(model, dtype).load())
            except PruningError as error:
                log.error("%s in %s cannot be loaded: %s", model.name, dtype, error)
                yield from ((request, error) for request in missing)
                continue
            for number, request in enumerate(missing, start=1):
                log.info("%s %s: measurement %d of %d", model.name, dtype, number, len(missing))
                try:
                    measured = self._evaluator(request, forward)(request.mask)
                    yield request, float(measured.metrics[request.name])
                except PruningError as error:
                    log.error("%s without %s: %s", model.name, request.mask.described(), error)
                    yield request, error
            del forward  # the next model needs its memory

    def _evaluator(self, request: Measurement, forward: Any) -> Evaluator:
        name, samples = request.name, self.samples(request)
        settings = self.settings(request.model, request.protocol.dtype)
        revision = commit_of(settings.path, settings.revision) if settings.source == "hub" else None
        key = digest([FORMAT, settings.identity(), revision, samples.sha256])
        folder = self.results / FOLDER / request.model.name / f"{name.replace('/', '-')}-{key}"
        evaluation = CorpusPerplexity({request.corpus: request.protocol}, self.limit)
        return Evaluator(evaluation, {name: samples}, forward, {name: folder})


# Find out what is missing before anything is measured: models, their weights, and texts.

HELP = (
    "What can be done: on a machine with a network, log in with `hf auth login` (Llama is gated) and run the same "
    "command; or give what is there, `--model NAME=DIR` and `--text wikitext2=FILE`; or leave masks out with "
    "`--only NAME,NAME`. Without any of these, `--only ours eval=embedded_windows` runs the same comparison on this "
    "project's own masks, and `--dry-run` prints what would be run."
)


def missing(rows: Sequence[GapRow], referee: Referee) -> list[str]:
    """The models and texts of the rows that are not available, each with the reason.

    Raises InputError if a model's number of blocks differs from that of its masks.
    """
    found = []
    for model in dict.fromkeys(row.entry.model for row in rows):
        settings = referee.settings(model, "bfloat16")
        try:
            settings.check()
            _ = settings.tokenizer
            if settings.source == "hub" and not settings.is_cached and constants.is_offline_mode():
                raise UnreachableError("its weights are not in the cache, and the hub cannot be reached")
        except InputError:
            raise
        except PruningError as error:
            found.append(f"model {model.name} ({settings.path}): {first_line(error)}")
            continue
        if (count := settings.n_blocks) != model.blocks:
            raise InputError(
                f"{settings.path} has {count} blocks, and the published masks of {model.name} "
                f"are for {model.blocks}: give the model that they were made for."
            )
    for text, name in {r.protocol.text: r.corpus for row in rows for r in row.requests()}.items():
        try:
            next(iter(text.documents(f"the text {name}")), None)
        except PruningError as error:
            found.append(f"text {name} ({text.label}): {first_line(error)}")
    return found


TOLERANCE = 0.01  # the relative difference up to which two perplexities agree
VERDICTS = {
    "none": "the number is found in both protocols",
    "protocol": "the number is found in its own protocol, so the protocol explains the gap",
    "agrees": "the number is found in its own protocol; the one protocol does not have its text",
    "unexplained": "the number is not found in its own protocol",
    "not reproduced": "its own protocol cannot be followed here",
    "no number": "no source prints a number for this mask",
    "failed": "a measurement failed",
}

Values = Mapping[Measurement, float | PruningError]


@dataclass(frozen=True)
class Explained:
    """A row, its measurements under the protocols `one` and `own`, and the verdict; `text` gives the reasons."""

    row: GapRow
    one: float | None
    own: float | None
    verdict: str
    text: str


def explained(rows: Sequence[GapRow], values: Values) -> list[Explained]:
    """Each row with its verdict. A measured value agrees with a published one within the relative `TOLERANCE`."""
    # The dense models' rows. If a dense model's number agrees, the mask is in doubt, else the protocol.
    dense = {(r.entry.paper, r.entry.model, r.own): r for r in reversed(rows) if not r.entry.mask.dropped}
    found = []
    for row in rows:
        errors = [v for request in row.requests() if isinstance(v := values[request], PruningError)]
        if errors:
            found.append(Explained(row, None, None, "failed", str(errors[0])))
            continue
        one, own, number = _value(row, row.one, values), _value(row, row.own, values), row.number
        if number is None:
            found.append(Explained(row, one, own, "no number", ""))
            continue
        verdict, parts = _verdict(row, number, one, own), list[str]()
        if own is not None and verdict == "unexplained":
            whole = dense.get((row.entry.paper, row.entry.model, row.own))
            parts = [f"{_percent(own / number.value)} left", *_doubts(row, number, whole, values)]
        elif verdict == "not reproduced":
            parts = [str(number.theirs.not_reproduced)]
        if number.theirs.unknown and row.own is not None:
            parts.append(f"not stated, taken as ours: {', '.join(number.theirs.unknown)}")
        if row.one is not None and row.own is not None and verdict != "none":
            parts.append(row.one.differences(row.own))
        found.append(Explained(row, one, own, verdict, ". ".join(filter(None, parts))))
    return found


def _verdict(row: GapRow, number: PublishedNumber, one: float | None, own: float | None) -> str:
    if row.own is None:
        return "not reproduced"
    if not _agrees(number, own):
        return "unexplained"
    if one is None:
        return "agrees"
    return "none" if _agrees(number, one) else "protocol"


def _agrees(number: PublishedNumber, value: float | None) -> bool:
    return value is not None and abs(value - number.value) <= TOLERANCE * number.value


def _value(row: GapRow, protocol: Protocol | None, values: Values) -> float | None:
    """The perplexity of a row under a protocol; None if there is no such protocol, or if its measurement failed."""
    value = None if protocol is None else values[row.request(protocol)]
    return value if isinstance(value, float) else None


def _doubts(row: GapRow, number: PublishedNumber, dense: GapRow | None, values: Values) -> list[str]:
    """Hints at a gap's cause: the dense model has a gap, too, or the pairing of mask and number is inferred."""
    doubts = [PAIRINGS["inferred"]] if number.pairing == "inferred" else []
    if dense is None or dense.number is None or not row.entry.mask.dropped:
        return doubts
    if (value := _value(dense, dense.own, values)) is None:
        return ["the dense model could not be measured", *doubts]
    if _agrees(dense.number, value):
        return ["the dense model agrees, so the mask is in doubt, not the protocol", *doubts]
    return [f"the dense model differs, too, by {_percent(value / dense.number.value)}", *doubts]


def _percent(factor: float) -> str:
    """A factor as text: below 2, as a change in percent such as `+3.20 %`; else as a multiple such as `x 40`."""
    return f"x {factor:,.3g}" if factor >= 2 else f"{100 * (factor - 1):+.2f} %"


def record(one: Explained) -> dict[str, Any]:
    """A row of `table.json`, with its sources, protocols and measurements."""
    row, number = one.row, one.row.number
    return {
        "mask": row.entry.name,
        "paper": row.entry.paper,
        "method": row.entry.method,
        "model": row.entry.model.name,
        "removed": row.entry.mask.listed(),
        "mask_source": asdict(row.entry.mask_source),
        "text": row.corpus,
        "published": None if number is None else number.value,
        "number_source": None if number is None else asdict(number.source),
        "pairing": None if number is None else number.pairing,
        "not_stated": [] if number is None else list(number.theirs.unknown),
        "one": one.one,
        "one_protocol": None if row.one is None else asdict(row.one),
        "own": one.own,
        "own_protocol": None if row.own is None else asdict(row.own),
        "verdict": one.verdict,
        "why": one.text,
        "note": row.entry.note,
    }
