"""Measure how much faster and smaller the pruned model is than the dense model (`eval=speed`).

The two models take turns to generate text, with a KV cache. The pruned model is the dense model in memory
without the removed units (`models/removal.py`). It equals a model loaded from an export, except if a mask
removes one sub-layer of a block. Then the export still contains that sub-layer, with zeros as output weights.
"""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, cast

import numpy as np

from pruning.core.errors import InputError, check_least
from pruning.core.processor import proc_field, processor_name
from pruning.core.records import SpeedRecord, SpreadRecord
from pruning.core.storage import text_sha256
from pruning.engine import collectives
from pruning.evaluation import SPEED, Data, Measured
from pruning.models.kept_models import quiet

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from pruning.calibration.samples import Samples
    from pruning.core.mask import Mask
    from pruning.engine.forward import Forward


log = logging.getLogger(__name__)

Values: TypeAlias = dict[str, list[float]]
Models: TypeAlias = Mapping[str, Callable[[], AbstractContextManager[Any]]]  # contexts that yield a model


@dataclass(frozen=True)
class Speed:
    """The settings of the speed measurement.

    For each batch size and prompt length (`prompts`, in tokens), each model generates `new_tokens` tokens greedily,
    `repeats` times. Before that, each model generates them `warmup` times without measurement. The order of the two
    models alternates between repeats, so that a slowdown of the machine affects both models.
    """

    batch_sizes: list[int]
    prompts: list[int]
    new_tokens: int = 32
    repeats: int = 5
    warmup: int = 1

    allow_overlap: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("batch_sizes", "prompts"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise InputError(f"eval.{name}={getattr(self, name)}: give numbers of at least 1.")
        check_least("eval", self, new_tokens=2, repeats=1, warmup=0)

    def data(self, tokenizer: Any) -> dict[str, SpeedData]:  # noqa: ARG002 - prompts are random tokens
        """The settings and the device, under the metric's name `speed`."""
        device = machine()
        text = json.dumps([asdict(self), device], sort_keys=True)
        return {SPEED: SpeedData(device, text_sha256(text), max(self.prompts) + self.new_tokens)}

    def measure(self, forward: Forward, name: str, data: Data, mask: Mask) -> Measured:  # noqa: ARG002
        """Sizes and speeds of both models, under `speed`. If there are several ranks, only the first measures."""
        return collectives.on_first(lambda: self._measured(forward, name, mask))

    def _measured(self, forward: Forward, name: str, mask: Mask) -> Measured:
        from pruning.models.products import native_products
        from pruning.models.removal import blocks_removed, smaller_config

        log.info("timing the pruned model against the dense one")
        model = forward.model.module
        smaller = smaller_config(model, mask)

        @contextmanager
        def pruned() -> Iterator[Any]:
            with blocks_removed(model, mask, smaller):
                yield model

        with native_products(model):  # as in the programs that will run the pruned model
            timed = self.timings({"dense": lambda: nullcontext(model), "pruned": pruned})
        for run in timed["runs"]:
            dense, small = run["dense"], run["pruned"]
            run["ratio"] = {
                "prefill": small["prefill_per_second"]["median"] / dense["prefill_per_second"]["median"],
                "decode": small["decode_per_second"]["median"] / dense["decode_per_second"]["median"],
                "first_token": dense["first_token_seconds"]["median"]
                / small["first_token_seconds"]["median"],
            }
        settings = {"repeats": self.repeats, "warmup": self.warmup, "dtype": forward.model.info.dtype}
        return Measured({name: {"device": device_name(model), **settings, **timed}}, settings)

    def timings(self, models: Models) -> dict[str, Any]:
        """Each model's size in `sizes`, and the measured values for each batch size and prompt length in `runs`."""
        sizes = {}
        for which, context in models.items():
            with context() as model:
                sizes[which] = dict(zip(("parameters", "bytes"), weight(model), strict=True))
        runs: list[dict[str, Any]] = []
        for batch, prompt in product(self.batch_sizes, self.prompts):
            run: dict[str, Any] = {"batch": batch, "prompt": prompt, "new_tokens": self.new_tokens}
            for which, values in alternating(models, batch, prompt, self).items():
                extra = values.pop("extra_memory", None)
                peak = round(max(extra)) + sizes[which]["bytes"] if extra else None
                run[which] = {name: _spread(v) for name, v in values.items()} | {"peak_memory": peak}
            runs.append(run)
        return {"sizes": sizes, "runs": runs}


@dataclass(frozen=True)
class SpeedData:
    """The settings and the device, in place of data. The digest covers both."""

    source: str
    sha256: str
    length: int  # tokens of the longest sequence: its prompt and its generated tokens

    def shared(self, calibration: Samples, /) -> int:  # noqa: ARG002 - random tokens overlap nothing
        """Always 0."""
        return 0


def device_name(module: nn.Module) -> str:
    """The name of the device that runs a model. It can be a CPU even if the machine has GPUs."""
    from pruning.engine.devices import devices

    return machine(gpus=any(device.type == "cuda" for device in devices(module)))


def machine(gpus: bool = True) -> str:
    """The names of all GPUs; if there are none or `gpus` is false, the processor's name and the number of threads."""
    import torch

    if gpus and torch.cuda.is_available():
        return " + ".join(map(torch.cuda.get_device_name, range(torch.cuda.device_count())))
    threads = torch.get_num_threads()
    return f"{processor_name()}, {threads} thread{'s' if threads > 1 else ''}"


def _spread(values: list[float]) -> SpreadRecord:
    """The median, the lower quartile and the upper quartile."""
    low, middle, high = map(float, np.quantile(values, (0.25, 0.5, 0.75)))
    return {"median": middle, "low": low, "high": high}


def flat(record: SpeedRecord) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a record for a tracker, with names such as `speed/b1-p512/decode_per_second/pruned`."""
    for which, sizes in record["sizes"].items():
        yield f"speed/parameters/{which}", sizes["parameters"]
        yield f"speed/bytes/{which}", sizes["bytes"]
    for run in record["runs"]:
        shape = f"speed/b{run['batch']}-p{run['prompt']}"
        for name, ratio in cast(Mapping[str, float], run["ratio"]).items():
            yield f"{shape}/{name}/ratio", ratio
        for which, timing in (("dense", run["dense"]), ("pruned", run["pruned"])):
            for name, value in cast(Mapping[str, Any], timing).items():
                if value is not None:
                    yield f"{shape}/{name}/{which}", value["median"] if isinstance(value, Mapping) else value


# The size of a model, and the extra memory that it needs to run.


def weight(model: Any) -> tuple[int, int]:
    """The number of parameters, and the bytes of all tensors in the state dict. Tied weights count once."""
    tensors = {id(tensor): tensor for tensor in model.state_dict(keep_vars=True).values()}.values()
    return sum(p.numel() for p in model.parameters()), sum(t.numel() * t.itemsize for t in tensors)


class Peak:
    """Measures extra memory: the peak use after this object is created, minus the use at its creation.

    If `device` is a GPU, memory is summed over all GPUs. Otherwise, the memory is that of the process (Linux only).
    """

    def __init__(self, device: torch.device) -> None:
        import torch

        self.cuda = device.type == "cuda"
        if self.cuda:
            for number in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(number)
        else:
            gc.collect()
            with suppress(OSError, AttributeError, TypeError):  # no glibc, or not Linux
                # If the process kept freed memory, using it again would not count as extra.
                ctypes.CDLL(None).malloc_trim(0)
            with suppress(OSError):  # not Linux, or a container that forbids the write
                Path("/proc/self/clear_refs").write_text("5")  # reset Linux's record of the peak
        self.before = self._now("memory_allocated", "VmRSS")

    def extra(self) -> int | None:
        """The peak above the use at the start, in bytes; None if it is unknown."""
        peak = self._now("max_memory_allocated", "VmHWM")
        return None if peak is None or self.before is None else max(0, peak - self.before)

    def _now(self, of_cuda: str, of_process: str) -> int | None:
        import torch

        if self.cuda:
            return int(sum(map(getattr(torch.cuda, of_cuda), range(torch.cuda.device_count()))))
        kilobytes = proc_field("/proc/self/status", f"{of_process}:")
        return int(kilobytes.split()[0]) * 1024 if kilobytes else None


# Time the generation of text: the time until the first new token, and the time for all later tokens.


def alternating(models: Models, batch: int, prompt: int, rounds: Speed) -> dict[str, Values]:
    """Measure the models in turns. Returns lists of one value per repeat, by model and by the value's name."""
    import torch

    from pruning.models.blocks import input_device

    measured: dict[str, Values] = {which: {} for which in models}
    for repeat in range(rounds.warmup + rounds.repeats):
        for which in list(models)[:: 1 if repeat % 2 == 0 else -1]:
            with models[which]() as model, quiet():
                vocabulary = model.get_input_embeddings().weight.shape[0]
                generator = torch.Generator().manual_seed(0)
                ids = torch.randint(3, vocabulary, (batch, prompt), generator=generator)
                values = _timed(model, ids.to(input_device(model)), rounds.new_tokens)
            if repeat >= rounds.warmup:
                for name, value in values.items():
                    measured[which].setdefault(name, []).append(value)
    return measured


def _timed(model: Any, ids: Tensor, new_tokens: int) -> dict[str, float]:
    """Tokens per second in the prompt and after the first new token, seconds until that token, and extra bytes."""
    import torch
    from transformers import GenerationConfig, StoppingCriteriaList

    times: list[float] = []

    def now() -> float:
        if ids.device.type == "cuda":
            torch.cuda.synchronize()  # wait until the device has finished its work
        return time.perf_counter()

    def note(sequences: Tensor, *_: Any, **__: Any) -> Tensor:
        times.append(now())
        return torch.zeros(len(sequences), dtype=torch.bool, device=sequences.device)

    peak = Peak(ids.device)
    begun = now()
    model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        generation_config=GenerationConfig(
            use_cache=True,
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=0,
        ),
        stopping_criteria=StoppingCriteriaList([note]),
    )
    extra = peak.extra()
    first, rest = times[0] - begun, times[-1] - times[0]
    return {
        "prefill_per_second": ids.numel() / first,
        "decode_per_second": len(ids) * (len(times) - 1) / rest,
        "first_token_seconds": first,
        **({} if extra is None else {"extra_memory": extra}),
    }
