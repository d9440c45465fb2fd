"""Prove that an exported directory is the masked model: same logits, and a cache that changes nothing.

The masked model is run first and let go; then the directory is loaded as a user would load it. Both compute in
float32 (float64 for a float64 export) with the weights that were written, so that equal means equal bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruning.core.errors import InputError, MismatchError
from pruning.core.mask import Mask
from pruning.models import device_map, loader, quiet, spec
from pruning.models.blocks import find_blocks, input_device, masked

NEW_TOKENS = 8
SHORT, LONG = 64, 1024  # tokens that are compared, unless a sliding window is longer; and at most
# Of a compensated model: the norms' epsilon and a second rounding of the weights set it apart from the engine's.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


@dataclass(frozen=True)
class Expected:
    """What an export must give: logits (T, V) of one row of token ids (1, T)."""

    ids: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Proof:
    """What was compared: logits at `tokens` positions, their largest absolute difference, `generated` tokens."""

    tokens: int
    difference: float
    relative: float
    generated: int

    def __str__(self) -> str:
        same = "equal bit for bit to those of the masked model"
        near = f"within {self.relative:.1e} (relative) of the masked and compensated model's"
        return (
            f"reloaded: logits of {self.tokens} tokens are {same if self.difference == 0 else near}, "
            f"{self.generated} tokens generated with the cache are those without"
        )


def computing(dtype: str) -> str:
    """The precision in which an export of a precision is compared."""
    return "float64" if dtype == "float64" else "float32"


def source_model(settings: spec.Model, precision: Callable[[str, torch.dtype], torch.dtype]) -> Any:
    """The whole model in the comparing precision, its weights rounded to what is written.

    `precision` says in which dtype a tensor of a name is written. Raises what `models.load` raises, and InputError
    where the weights do not fit into memory.
    """
    module = loader.load_uncached(replace(settings, dtype=computing(settings.dtype))).module
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.device.type == "meta":
                raise InputError(
                    "the model does not fit into memory here, so the export cannot be compared: "
                    "give verify=false."
                )
            tensor.copy_(tensor.to(precision(name, tensor.dtype)))
    return module


def expected(model: Any, mask: Mask, scales: Sequence[float] | None = None) -> Expected:
    """Logits of the masked model; with scales, dropped block i multiplies the residual stream by scales[i]."""
    blocks = find_blocks(model)
    ids = _ids(model)
    with ExitStack() as stack:
        stack.enter_context(masked(model, mask))
        for index in mask.dropped if scales is not None else ():
            assert scales is not None
            hook = blocks.modules[index].register_forward_hook(_scaling(scales[index]))
            stack.callback(hook.remove)
        return Expected(ids, _logits(model, ids))


def compare_export(folder: Path, wanted: Expected, settings: spec.Model, exact: bool) -> Proof:
    """Load a directory and compare. Raises MismatchError, which says all that differs."""
    model, wrong = _reload(folder, settings)
    logits = _logits(model, wanted.ids)
    if logits.shape != wanted.logits.shape:
        raise MismatchError(f"the export has logits {tuple(logits.shape)}, not {tuple(wanted.logits.shape)}.")
    gap = (logits - wanted.logits).abs()
    relative = float(gap.norm() / wanted.logits.norm())
    if not (relative == 0 if exact else relative <= TOLERANCE[getattr(torch, settings.dtype)]):
        agreement = (logits.argmax(-1) == wanted.logits.argmax(-1)).double().mean()
        wrong.append(
            f"its logits differ from those of the masked model by {float(gap.max()):.3g} at most, first at token "
            f"{int(gap.amax(-1).nonzero()[0])} of {len(gap)} ({agreement:.0%} of the most likely tokens agree)"
        )
    plain, cached = (_generate(model, wanted.ids, use_cache) for use_cache in (False, True))
    if plain != cached:
        first = next(i for i, (a, b) in enumerate(zip(plain, cached, strict=True)) if a != b)
        wrong.append(f"generated token {first} is {cached[first]} with the cache and {plain[first]} without")
    if wrong:
        raise MismatchError(f"the exported model is not the masked model: {'; '.join(wrong)}.")
    return Proof(len(gap), float(gap.max()), relative, len(plain))


def _reload(folder: Path, settings: spec.Model) -> tuple[Any, list[str]]:
    """The model of a directory, and which of its weights were not found there."""
    from transformers import AutoConfig, AutoModelForCausalLM

    own = replace(settings, dtype=computing(settings.dtype))
    options = device_map.device_options(own, AutoConfig.from_pretrained(folder))
    with quiet.quiet():
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, own.dtype),
            attn_implementation=settings.attention,
            output_loading_info=True,
            **options,
        )
    lacking = sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"]]))
    return model.eval(), [f"{len(lacking)} weights are missing, {lacking[0]} for one"] if lacking else []


def _ids(model: Any) -> Tensor:
    """Random token ids (1, T), more of them than a sliding window holds where that is not too long."""
    text = model.config.get_text_config(decoder=True)
    windows = [getattr(text, name, None) or 0 for name in ("sliding_window", "attention_chunk_size")]
    length = max([SHORT, *(window + NEW_TOKENS for window in windows if window < LONG)])
    limit = getattr(text, "max_position_embeddings", None) or LONG
    vocabulary = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    return torch.randint(3, vocabulary, (1, min(length, limit)), generator=generator)


def _logits(model: Any, ids: Tensor) -> Tensor:
    """Logits (T, V), on the CPU."""
    with torch.no_grad():
        logits: Tensor = model(input_ids=ids.to(input_device(model)), use_cache=False).logits
    return logits[0].cpu()


def _generate(model: Any, ids: Tensor, use_cache: bool) -> list[int]:
    """Greedy continuation of all ids but the last few."""
    from transformers import GenerationConfig

    prompt = ids[:, :-NEW_TOKENS].to(input_device(model))
    config = GenerationConfig(
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        do_sample=False,
        use_cache=use_cache,
        pad_token_id=0,
    )
    with quiet.quiet():
        row = model.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), generation_config=config
        )
    tokens: list[int] = row[0, prompt.shape[1] :].tolist()
    return tokens


def _scaling(factor: float) -> Callable[..., Any]:
    def hook(_module: Any, _args: Any, output: Any) -> Any:
        return (output[0] * factor, *output[1:]) if isinstance(output, tuple) else output * factor

    return hook
