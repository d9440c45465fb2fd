"""How much faster and smaller the pruned model is: `eval=speed` runs both in turn, with a cache, as they are used.

The pruned model is what an export of the mask loads as (`removed.py`). Its weights are a part of the dense model's,
so nothing is loaded twice, and what differs between the two is their depth alone.
"""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pruning.core.errors import InputError
from pruning.core.hashing import text_sha256
from pruning.distributed import collectives
from pruning.evaluation import Data, Measured
from pruning.evaluation.stopwatch import Contexts, Rounds, alternating

if TYPE_CHECKING:
    from pruning.calibration.samples import Samples
    from pruning.core.mask import Mask
    from pruning.engine.forward import Forward

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Machine:
    """The data of a measurement that needs none: settings and the device, on another of which it is another."""

    source: str
    sha256: str
    length: int  # tokens at the end of the longest generation

    def shared(self, calibration: Samples, /) -> int:  # noqa: ARG002 - random tokens are no data
        """Nothing."""
        return 0


@dataclass(frozen=True)
class Speed:
    """For each of `batch_sizes` and `prompts` (tokens), `new_tokens` are generated greedily, `repeats` times.

    Before them, both models run `warmup` times unmeasured. Who is first changes from one repeat to the next, so that
    a machine that slows down slows down both.
    """

    batch_sizes: list[int]
    prompts: list[int]
    new_tokens: int = 32
    repeats: int = 5
    warmup: int = 1

    compares: ClassVar[bool] = True
    averages: ClassVar[bool] = False
    allow_overlap: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("batch_sizes", "prompts"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise InputError(f"eval.{name}={getattr(self, name)}: give numbers from 1 on.")
        for name, least in (("new_tokens", 2), ("repeats", 1), ("warmup", 0)):
            if getattr(self, name) < least:
                raise InputError(f"eval.{name}={getattr(self, name)}: give at least {least}.")

    def files(self) -> tuple[str, ...]:
        """None."""
        return ()

    def data(self, tokenizer: Any) -> dict[str, Machine]:  # noqa: ARG002 - what is fed is random
        """The device, under the name of the metric."""
        device = machine()
        text = json.dumps([asdict(self), device], sort_keys=True)
        length = max(self.prompts) + self.new_tokens
        return {"speed": Machine(device, text_sha256(text), length)}

    def measure(self, forward: Forward, name: str, data: Data, mask: Mask) -> Measured:
        """Sizes and speeds of both models, under `speed`; of several ranks, the first measures, the others rest."""
        return collectives.on_first(lambda: self._measured(forward, name, data, mask))

    def _measured(self, forward: Forward, name: str, data: Data, mask: Mask) -> Measured:
        from pruning.evaluation.memory import weight
        from pruning.models.physical_removal import blocks_removed, smaller_config

        log.info("timing the pruned model against the dense one")
        model = forward.model.module
        smaller = smaller_config(model, mask)
        contexts: Contexts = {"dense": nullcontext, "pruned": lambda: blocks_removed(model, mask, smaller)}
        rounds = Rounds(self.new_tokens, self.repeats, self.warmup)
        sizes: dict[str, dict[str, int]] = {}
        for which, context in contexts.items():
            with context():
                sizes[which] = dict(zip(("parameters", "bytes"), weight(model), strict=True))
        shapes = [(batch, prompt) for batch in self.batch_sizes for prompt in self.prompts]
        runs = [
            {"batch": batch, "prompt": prompt, "new_tokens": self.new_tokens}
            | _compared(alternating(model, contexts, batch, prompt, rounds), sizes)
            for batch, prompt in shapes
        ]
        settings = {"repeats": self.repeats, "warmup": self.warmup, "dtype": forward.model.info.dtype}
        return Measured({name: {"device": data.source, **settings, "sizes": sizes, "runs": runs}}, settings)


def machine() -> str:
    """The device on which models run, as far as it can be told before one is loaded."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        return " + ".join(names)
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' if threads > 1 else ''}"


def _processor() -> str:
    """What Linux calls it; elsewhere, what Python knows."""
    import platform

    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _compared(
    found: Mapping[str, Mapping[str, list[float]]], sizes: Mapping[str, Mapping[str, int]]
) -> dict[str, Any]:
    """Medians and quartiles of both, and how many times better the pruned model is."""
    both: dict[str, Any] = {}
    for which, values in found.items():
        extra = values.get("extra_memory")
        both[which] = {name: _spread(v) for name, v in values.items() if name != "extra_memory"}
        both[which]["peak_memory"] = round(max(extra)) + sizes[which]["bytes"] if extra else None
    dense, pruned = both["dense"], both["pruned"]
    both["ratio"] = {
        "prefill": pruned["prefill_per_second"]["median"] / dense["prefill_per_second"]["median"],
        "decode": pruned["decode_per_second"]["median"] / dense["decode_per_second"]["median"],
        "first_token": dense["first_token_seconds"]["median"] / pruned["first_token_seconds"]["median"],
    }
    return both


def _spread(values: list[float]) -> dict[str, float]:
    """The median, and the quartiles around it."""
    low, middle, high = statistics.quantiles(values, method="inclusive") if len(values) > 1 else values * 3
    return {"median": middle, "low": low, "high": high}


def flat(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a record by name, such as `speed/b1-p512/decode_per_second/pruned`: for a tracker."""
    for which, sizes in record["sizes"].items():
        yield from ((f"speed/{name}/{which}", value) for name, value in sizes.items())
    for run in record["runs"]:
        shape = f"speed/b{run['batch']}-p{run['prompt']}"
        yield from ((f"{shape}/{name}/ratio", value) for name, value in run["ratio"].items())
        for which in ("dense", "pruned"):
            for name, value in run[which].items():
                if value is not None:
                    yield f"{shape}/{name}/{which}", value["median"] if isinstance(value, Mapping) else value
