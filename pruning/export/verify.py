"""Prove that a written model has the masked model's logits, and generates the same tokens with and without a cache.

The masked model runs first and is freed; then the written model is loaded as a user would load it. Both compute in
float32 (float64 for a float64 export) with the exported weights, so their logits must be equal bit for bit. On a CPU,
the blocks of the written model stay in its files, and one at a time is in memory. So do those of the masked model, if
it is a checkpoint whose weights the export does not change.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruning.core.errors import InputError, MismatchError, first_line
from pruning.core.mask import Mask
from pruning.models.architecture import attention_kernel
from pruning.models.blocks import input_device
from pruning.models.gguf import copied_head, open_gguf, tie_copy
from pruning.models.handle import Model
from pruning.models.kept_models import quiet
from pruning.models.output_maps import Precision
from pruning.models.streaming import read_whole_blocks, streamed_options
from pruning.models.sublayers import masked

UNPROVEN = "not compared with the masked model (verify=false)"
NEW_TOKENS = 8
# SHORT tokens are compared; for a sliding window shorter than LONG, at least its length + NEW_TOKENS tokens.
SHORT, LONG = 64, 1024


@dataclass(frozen=True)
class Expected:
    """The required output of an export: logits (T, V) for one row of token ids (1, T)."""

    ids: Tensor
    logits: Tensor


def comparison_dtype(dtype: str) -> str:
    """The precision in which an export in `dtype` is compared with the masked model."""
    return "float64" if dtype == "float64" else "float32"


def load_rounded(settings: Model, precision: Precision, stream: bool = False) -> Any:
    """The dense model in the precision of the comparison, with its weights rounded as in the export.

    `precision(name, stored)` is the dtype in which a tensor of this name and stored dtype is written. With `stream`,
    the blocks of a model on the CPU stay in its safetensors files if they can. Raises InputError if the weights
    do not fit into memory.
    """
    module = replace(settings, dtype=comparison_dtype(settings.dtype)).load_anew(stream).module

    def rounded(name: str, values: Tensor) -> Tensor:
        return values.to(precision(name, values.dtype)).to(values.dtype)

    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.device.type != "meta":
                tensor.copy_(rounded(name, tensor))
            elif not stream:
                raise InputError(
                    "the model does not fit into memory: to cut whole blocks, give verify=false; to remove parts of "
                    "blocks, or to write a healed or repaired model, use a machine with more memory."
                )
    if stream:
        read_whole_blocks(module, rounded)
    return module


def expected(model: Any, mask: Mask) -> Expected:
    """Random token ids, and the masked model's logits for them."""
    ids = _ids(model)
    with masked(model, mask):
        return Expected(ids, _logits(model, ids))


def compare_export(
    place: Path | str, wanted: Expected, settings: Model, config: Any = None, **options: Any
) -> str:
    """Load a written model and compare its logits bit for bit with `wanted`; returns the result in words.

    `settings` has the dtype and the device. `config` is the model's configuration, by default the written
    one; `options` go to `from_pretrained`. Raises MismatchError if the logits differ, if weights are missing,
    or if the cache changes generated tokens.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    if config is None:
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
    head = None
    if (path := options.get("gguf_file")) is not None and (
        head := copied_head(open_gguf(Path(path)))
    ) is not None:
        config.tie_word_embeddings = True  # as when the whole file was loaded
    streamed = None if path is not None else streamed_options(config, settings.device_map)
    # The progress bar of GGUF files ignores transformers' settings.
    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        model, info = AutoModelForCausalLM.from_pretrained(
            place,
            config=config,
            dtype=getattr(torch, comparison_dtype(settings.dtype)),
            attn_implementation=attention_kernel(config),
            output_loading_info=True,
            trust_remote_code=False,
            **options,
            **(streamed or settings.device_options),  # the same device as the whole model, for equal bits
        )
    if lacking := sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]])):
        raise MismatchError(
            f"the exported model lacks {len(lacking)} weights of the masked model, for example {lacking[0]}."
        )
    if streamed:
        read_whole_blocks(model)
    if head is not None:
        tie_copy(model, head)
    return _compared(model.eval(), wanted)


def _compared(model: Any, wanted: Expected) -> str:
    """How a loaded export was compared with `wanted`, in words. Raises MismatchError if it differs."""
    wrong = []
    logits = _logits(model, wanted.ids)
    if logits.shape != wanted.logits.shape:
        raise MismatchError(f"the export has logits {tuple(logits.shape)}, not {tuple(wanted.logits.shape)}.")
    gap = (logits - wanted.logits).abs()
    if not torch.equal(logits, wanted.logits):
        agreement = (logits.argmax(-1) == wanted.logits.argmax(-1)).double().mean()
        wrong.append(
            f"its logits differ from those in memory by {float(gap.max()):.3g} at most, first at token "
            f"{int(gap.amax(-1).nonzero()[0])} of {len(gap)} ({agreement:.0%} of the most likely tokens agree)"
        )
    try:
        plain, cached = (_generate(model, wanted.ids, use_cache) for use_cache in (False, True))
    except (ValueError, IndexError, RuntimeError) as error:
        raise MismatchError(f"the exported model cannot generate text ({first_line(error)}).") from error
    if plain != cached:
        first = next(i for i, (a, b) in enumerate(zip(plain, cached, strict=True)) if a != b)
        wrong.append(f"generated token {first} is {cached[first]} with the cache and {plain[first]} without")
    if wrong:
        raise MismatchError(f"the exported model is not the masked model: {'; '.join(wrong)}.")
    return (
        f"reloaded: logits of {len(gap)} tokens are equal bit for bit to those of the masked model in memory, "
        f"{len(plain)} tokens generated with the cache equal those without it"
    )


def _ids(model: Any) -> Tensor:
    """Random token ids, of shape (1, T). If a sliding window is shorter than LONG, T exceeds its length.

    T is never more than the model's context length.
    """
    text = model.config.get_text_config(decoder=True)
    windows = [getattr(text, name, None) or 0 for name in ("sliding_window", "attention_chunk_size")]
    length = max([SHORT, *(window + NEW_TOKENS for window in windows if window < LONG)])
    limit = getattr(text, "max_position_embeddings", None) or LONG
    vocabulary = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    return torch.randint(3, vocabulary, (1, min(length, limit)), generator=generator)


def _logits(model: Any, ids: Tensor) -> Tensor:
    """The logits (T, V) of token ids (1, T), on the CPU."""
    with torch.no_grad():
        logits: Tensor = model(input_ids=ids.to(input_device(model)), use_cache=False).logits
    return logits[0].cpu()


def _generate(model: Any, ids: Tensor, use_cache: bool) -> list[int]:
    """The tokens that greedy decoding adds to a prompt; the prompt is `ids` without the last NEW_TOKENS tokens."""
    from transformers import GenerationConfig

    prompt = ids[:, :-NEW_TOKENS].to(input_device(model))
    lengths = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
    config = GenerationConfig(**lengths, do_sample=False, use_cache=use_cache, pad_token_id=0)
    with quiet():
        row = model.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), generation_config=config
        )
    tokens: list[int] = row[0, prompt.shape[1] :].tolist()
    return tokens
