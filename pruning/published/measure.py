"""Measure masks in protocols. Each measurement is a file, so a command that was stopped continues where it was."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pruning.core import atomic_files
from pruning.core.errors import InputError, PruningError
from pruning.core.hashing import digest
from pruning.core.hub import commit_of
from pruning.core.mask import Mask
from pruning.evaluation import Data, Measured
from pruning.evaluation.perplexity import corpus_perplexity
from pruning.models import loader
from pruning.models.spec import Model
from pruning.published.plan import Request
from pruning.published.protocol import Protocol
from pruning.published.records import ModelFacts
from pruning.runs.cell_identity import FORMAT
from pruning.runs.cell_model import forward_with
from pruning.runs.cell_settings import ForwardSettings
from pruning.runs.check_data import Reader, check_evaluation
from pruning.runs.measurements import Evaluator

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
        return (
            float(atomic_files.read_json(path)["metrics"][self._metric(request)]) if path.exists() else None
        )

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
        from pruning.engine.device import exact

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
