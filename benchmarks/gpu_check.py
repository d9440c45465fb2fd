"""Check the engine on a GPU node; `make gpu-check` runs it.

- the engine's log-likelihoods agree with those of one masked forward pass per mask, in float32 and in bfloat16;
- if masks are scored again, together or one by one, their losses are equal to the last bit;
- the factors of float32 products are not rounded to TF32;
- if there are several GPUs, a model that is split over all of them gives the same losses as on one GPU;
- with `--model DIR`, perplexities of this model, dense and without one block, are finite.

python -m benchmarks.gpu_check [--device cuda|cpu] [--model DIR]
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.baselines import Plain
from benchmarks.run import tiny_llama, tokens
from pruning.calibration.samples import Row, Samples
from pruning.calibration.text import Text
from pruning.core.errors import PruningError
from pruning.core.mask import Mask
from pruning.engine import devices
from pruning.engine.forward import Forward
from pruning.models.handle import Model
from pruning.models.placement import LanguageModel

log = logging.getLogger("gpu_check")

NO_GPU = """no GPU is visible to PyTorch %s. On a cluster, run this on a GPU node:
    srun --gpus=1 --cpus-per-task=8 --mem=32G --time=30 make gpu-check
Otherwise check `nvidia-smi`, CUDA_VISIBLE_DEVICES, and that PyTorch is built for CUDA (pip install torch). To run the
checks on the CPU: python -m benchmarks.gpu_check --device cpu"""
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}  # largest relative difference of log-likelihoods
BLOCKS = 12  # in the random model


def main() -> None:
    """Run all checks. Exit with 0 if all have passed, 1 if a check has failed, and 2 if there is no GPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--model", help="directory of a model of about 1B parameters, for the last check")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if asked.device == "cuda" and not torch.cuda.is_available():
        log.error(NO_GPU, torch.__version__)
        raise SystemExit(2)
    devices.exact()
    found = checks(torch.device(asked.device), asked.model)
    failed = [name for name, check in found if not passes(name, check)]
    log.info("%s", f"FAILED: {', '.join(failed)}" if failed else "all checks passed")
    raise SystemExit(1 if failed else 0)


def checks(where: torch.device, model: str | None) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield every check that this machine can run: its name, and the function that runs it."""
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        yield f"engine equals plain passes, {name}", partial(equal, where, dtype)
        yield f"equal batches, equal losses, {name}", partial(repeats, where, dtype)
    yield "float32 stays float32", partial(exactness, where)
    if where.type == "cuda" and torch.cuda.device_count() > 1:
        yield "a model spread over GPUs", spread
    if model is not None:
        place = "auto" if where.type == "cuda" else "cpu"
        yield "a real model", partial(smoke, Model("given", "local", model, device_map=place))


def passes(name: str, check: Callable[[], str]) -> bool:
    """Run one check, print a line for it, and return whether it passed."""
    started = time.perf_counter()
    try:
        finding, good = check(), True
    except PruningError as failure:
        finding, good = str(failure), False
    except Exception as error:
        log.exception("%s", name)
        finding, good = f"{type(error).__name__}: {error}", False
    taken = time.perf_counter() - started
    log.info("%-6s %-42s %6.1f s  %s", "ok" if good else "FAILED", name, taken, finding)
    return good


def equal(where: torch.device, dtype: torch.dtype) -> str:
    """Compare the log-likelihoods of the engine with those of plain passes, for texts and items under many masks."""
    worst, model = 0.0, llama(where, dtype)
    for samples in (windows(), items()):
        engine, plain = (losses(kind(model, 512), samples, masks()) for kind in (Forward, Plain))
        worst = max(worst, float(np.max(np.abs(engine - plain) / np.abs(plain))))
    if worst > TOLERANCE[dtype]:
        raise PruningError(f"they differ by {worst:.1e}, more than {TOLERANCE[dtype]:.0e}")
    return f"relative difference at most {worst:.1e}"


def repeats(where: torch.device, dtype: torch.dtype) -> str:
    """Score all masks together, twice, and then one by one. A mask must have equal losses each time."""
    model, samples = llama(where, dtype), windows()
    first, again = (losses(Forward(model, 512), samples, masks()) for _ in range(2))
    alone = np.concatenate([losses(Forward(model, 512), samples, [mask]) for mask in masks()])
    for what, other in (("the second time", again), ("if masks are scored one by one", alone)):
        if not np.array_equal(first, other):
            raise PruningError(f"losses differ by {np.max(np.abs(first - other)):.1e} {what}")
    return f"{first.size} log-likelihoods, bit by bit"


def exactness(where: torch.device) -> str:
    """Check the error of a float32 product whose factors need more than TF32's 10 mantissa bits."""
    factor = torch.full((256, 256), 1 + 2.0**-12, device=where)
    error = float(((factor @ factor).double() - 256 * (1 + 2.0**-12) ** 2).abs().max())
    if error > 1e-2:
        raise PruningError(f"products of float32 are off by {error:.1e}: is NVIDIA_TF32_OVERRIDE set?")
    return f"error {error:.1e}"


def spread() -> str:
    """Compare a model that is split over all GPUs with the same model on the first GPU."""
    from accelerate import dispatch_model

    whole, parts = llama(torch.device("cuda", 0), torch.float32), llama(torch.device("cpu"), torch.float32)
    count = torch.cuda.device_count()
    layers = {f"model.layers.{block}": block * count // BLOCKS for block in range(BLOCKS)}
    ends = {"model.embed_tokens": 0, "model.rotary_emb": 0, "model.norm": count - 1, "lm_head": count - 1}
    spread_out = LanguageModel(dispatch_model(parts.module, device_map=layers | ends), parts.info)
    single, several = (losses(Forward(model, 512), windows(), masks()) for model in (whole, spread_out))
    if not np.allclose(single, several, rtol=TOLERANCE[torch.float32]):
        raise PruningError(f"losses differ by {np.max(np.abs(single - several)):.1e}")
    return f"{count} GPUs, the same losses as on one"


def smoke(settings: Model) -> str:
    """Score masks that remove one block of a real model, and evaluate the best of them."""
    from pruning.evaluation.corpora import perplexity

    model, samples = settings.load(), Text("pydoc", 8, 256, 0).draw(settings.tokenizer)
    singles = [Mask(model.info.n_blocks, (block,)) for block in range(0, model.info.n_blocks, 4)]
    forward = Forward(model, 4096)
    best = singles[int(np.argmax(losses(forward, samples, singles).sum(1)))]
    dense, pruned = (perplexity("ppl", forward, samples, mask).metrics["ppl"] for mask in (best.dense, best))
    if not np.isfinite([dense, pruned]).all():
        raise PruningError(f"{settings.path}: perplexities {dense} and {pruned}")
    lost = f"perplexity {dense:.2f}, {pruned:.2f} without block {best.dropped[0]}"
    return f"{settings.path}: {lost}; peak {devices.peak_memory(model.module) / 1e9:.1f} GB"


# Random models and samples, which need no files.


def llama(where: torch.device, dtype: torch.dtype) -> LanguageModel:
    """A random Llama on the device `where`, in the precision `dtype`. Every call gives it the same weights."""
    model = tiny_llama(BLOCKS, where)
    return replace(model, module=model.module.to(dtype))


def windows() -> Samples:
    """Six windows of random tokens. Their lengths differ slightly."""
    rows = (Row(row.input_ids[: 48 - n % 4], (1, 48 - n % 4)) for n, row in enumerate(tokens(6, 48).rows))
    return Samples("text", "random", tuple(rows), 0)


def items() -> Samples:
    """Six random questions with four answers each. The engine packs all answers to a question after its prompt."""
    rows = []
    for item, row in enumerate(tokens(6, 50).rows):
        for choice in range(4):
            ids = row.input_ids[:20] + row.input_ids[20 + 7 * choice : 23 + 8 * choice]
            rows.append(Row(ids, (20, len(ids)), item, choice, choice == 0))
    return Samples("items", "random", tuple(rows), 0)


def masks() -> list[Mask]:
    """Masks that share prefixes of various lengths, and the mask of the dense model."""
    last = BLOCKS - 1
    dropped = [(), (0,), (last,), (3, 4), (0, last), (2, 5, 7), (2, 5, 8), (last - 1, last)]
    return [Mask(BLOCKS, chosen) for chosen in dropped]


def losses(forward: Forward, samples: Samples, chosen: Sequence[Mask]) -> np.ndarray[Any, Any]:
    """The log-likelihoods of the `chosen` masks, of shape (masks, rows)."""
    rows = {mask: values for mask, values, _ in forward.loglikelihoods(samples.rows, chosen)}
    return np.array([rows[mask] for mask in chosen])


if __name__ == "__main__":
    main()
