"""A masked model that can generate with a cache, and continuations of prompts.

Skipping units works only without a cache, so the units are removed from the model in memory for the time of a
context (`models/physical_removal.py`). The factors of a compensation are applied through hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from pruning.distributed import collectives

if TYPE_CHECKING:
    from pruning.core.mask import Mask
    from pruning.engine.forward import Forward

Tokens = Sequence[int]


@contextmanager
def generating(forward: Forward, mask: Mask) -> Iterator[Any]:
    """Within this context the model lacks the units of a mask and can generate; yields the transformers model.

    Raises InputError if the architecture cannot describe these units, as an export does.
    """
    from pruning.models.block_probe import find_blocks
    from pruning.models.physical_removal import blocks_removed, smaller_config
    from pruning.models.scale_hooks import add_scales

    module = forward.model.module
    if not mask.dropped:
        yield module
        return
    blocks = find_blocks(module).modules
    kept = [blocks[index] for index in range(mask.n_blocks) if index not in mask.gone]
    with ExitStack() as stack:
        stack.enter_context(blocks_removed(module, mask, smaller_config(module, mask)))
        if forward.scales is not None:
            for handle in add_scales(kept, mask, forward.scales):
                stack.callback(handle.remove)
        yield module


def continued(
    module: Any,
    prompts: Sequence[Tokens],
    new_tokens: int,
    batch_size: int,
    seed: int | None = None,
    watch: Callable[[int, int], None] | None = None,
) -> list[tuple[int, ...]]:
    """The continuation of each prompt: at most `new_tokens` tokens, the last of them an end of text if there is one.

    All prompts have the same length, so nothing is padded. Without `seed`, each token is the likeliest one. With
    `seed`, tokens are drawn from the model's own distribution (temperature 1, nothing cut off). If there are several
    ranks, each continues a share, and all ranks get all continuations.
    """
    batches = [prompts[start : start + batch_size] for start in range(0, len(prompts), batch_size)]
    numbered = collectives.share_of(list(enumerate(batches)))
    found = []
    for done, (number, batch) in enumerate(numbered, start=1):
        found.append(_batch(module, batch, new_tokens, None if seed is None else seed + number))
        if watch is not None:
            watch(done, len(numbered))
    return [tokens for batch in collectives.gather(found) for tokens in batch]


def _batch(
    module: Any, prompts: Sequence[Tokens], new_tokens: int, seed: int | None
) -> list[tuple[int, ...]]:
    import torch
    from transformers import GenerationConfig

    from pruning.models.block_probe import input_device

    ids = torch.tensor([list(prompt) for prompt in prompts], device=input_device(module))
    ends = end_tokens(module)
    settings = GenerationConfig(
        max_new_tokens=new_tokens,
        do_sample=seed is not None,
        top_k=None if seed is None else 0,  # without a value, transformers takes 50
        eos_token_id=list(ends) or None,
        pad_token_id=ends[0] if ends else 0,
    )
    devices = [ids.device] if ids.device.type == "cuda" else []
    with torch.random.fork_rng(devices), _without_own_settings(module):
        if seed is not None:
            torch.manual_seed(seed)
        output = module.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings
        )
    return [until_end(row, ends) for row in output[:, ids.shape[1] :].tolist()]


@contextmanager
def _without_own_settings(module: Any) -> Iterator[None]:
    """Within this context, the model has no generation settings of its own.

    transformers uses a model's own settings in place of missing ones, and many of them change probabilities, such as
    `min_p`, `suppress_tokens` and `sequence_bias`.
    """
    from transformers import GenerationConfig

    own = module.generation_config
    module.generation_config = GenerationConfig()
    try:
        yield
    finally:
        module.generation_config = own


def end_tokens(module: Any) -> tuple[int, ...]:
    """The tokens that end a text of this model."""
    own = getattr(module, "generation_config", None)
    for settings in (own, module.config.get_text_config(decoder=True)):
        ends = getattr(settings, "eos_token_id", None)
        if ends is not None:
            return tuple(ends) if isinstance(ends, (list, tuple)) else (int(ends),)
    return ()


def until_end(tokens: Tokens, ends: Sequence[int]) -> tuple[int, ...]:
    """The tokens up to the first end of text, which is included; what follows is padding."""
    stop = next((number for number, token in enumerate(tokens, start=1) if token in ends), len(tokens))
    return tuple(tokens[:stop])
