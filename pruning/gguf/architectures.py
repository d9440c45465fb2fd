"""What llama.cpp derives from a block's number or from the number of blocks, by architecture.

A cut moves blocks to other numbers, so whatever is derived from them would change in silence. The tables follow
llama.cpp's `src/models/*.cpp` at commit 0c1e570 (September 2026), the one in llama-cpp-python 0.3.36. An architecture
that is in none of them is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.gguf.container import GgufFile

PATTERN = "attention.sliding_window_pattern"
# Nothing is derived from a number; blocks can differ by lists with one entry per block.
# fmt: off
PLAIN = frozenset([
    "apertus", "arcee", "bloom", "codeshell", "deepseek", "dots1", "exaone", "falcon", "gemma", "glm4",
    "gpt2", "gptneox", "granite", "granitemoe", "hunyuan-dense", "hunyuan-moe", "internlm2", "lfm2",
    "llama", "mamba", "minimax-m2", "mistral3", "mpt", "nemotron", "olmo", "olmoe", "orion", "phi2",
    "phi3", "phimoe", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "seed_oss", "stablelm", "starcoder",
    "starcoder2", "xverse",
])
# fmt: on


@dataclass(frozen=True)
class Windows:
    """In each `period` of blocks all have a sliding window but the last; a list in the file replaces this rule."""

    period: int
    optional: bool = False  # without the key for the window's length, no block has a window


WINDOWS = {
    "cohere2": Windows(4),
    "gemma2": Windows(2),
    "gemma3": Windows(6, optional=True),
    "gpt-oss": Windows(2),
    "olmo2": Windows(4, optional=True),
}
# Architectures for which certain numbers of blocks mean a model of a certain size, and another computation.
SIZES = {
    "command-r": (range(64, 1000), "with norms for queries and keys from 64 blocks on"),
    "gemma2": (range(46, 47), "with another scale of attention at 46 blocks (the 27B model)"),
    "gemma3": (range(62, 63), "with another scale of attention at 62 blocks (the 27B model)"),
}
REFUSED = {
    "baichuan": "its number of blocks decides between rotary embeddings and ALiBi",
    "deepseek2": "numbers of blocks stand for variants with other tensors",
    "ernie4_5-moe": "every so many blocks have experts, counted by their number",
    "exaone4": "its sliding windows depend on the number of blocks",
    "gemma3n": "blocks share keys and values, and one tensor holds embeddings for all blocks",
    "gemma4": "blocks share keys and values, and one tensor holds embeddings for all blocks",
    "llama4": "experts, and blocks without rotary embeddings, are counted by the block's number",
    "minicpm": "what a block adds is scaled by the number of blocks",
    "minicpm3": "what a block adds is scaled by the number of blocks",
    "smollm3": "every fourth block, counted by its number, has no rotary embeddings",
}
SHARED = (
    "attention.shared_kv_layers",
    "nextn_predict_layers",
)  # keys that tie blocks to others or to the end
EXTRA = "general.tensor_extra.name"


def check_known(file: GgufFile) -> None:
    """Raise InputError, with the reason, if no cut of the file is certain to be computed as before."""
    name = file.architecture
    if name in REFUSED:
        raise InputError(f"{file.path}: llama.cpp cannot run a cut {name} model: {REFUSED[name]}.")
    if name not in PLAIN and name not in WINDOWS and name not in SIZES:
        known = ", ".join(sorted(PLAIN | set(WINDOWS) | set(SIZES)))
        raise InputError(
            f"{file.path} holds a model of the architecture {name}, and it was not checked what llama.cpp derives "
            f"from the numbers of its blocks. Choose one of {known}; or export a directory (out=DIR) and convert it."
        )
    if tied := [key for key in SHARED if file.own(key, 0)]:
        raise InputError(
            f"{file.path}: {name}.{tied[0]} is {file.own(tied[0])}: such blocks cannot be cut apart."
        )
    if EXTRA in file.entries:
        raise InputError(
            f"{file.path}: {EXTRA} names tensors by the numbers of their blocks, which is not supported."
        )


def check_architecture(file: GgufFile, mask: Mask) -> None:
    """Raise InputError, with the reason, unless llama.cpp computes the kept blocks of a cut file as before."""
    check_known(file)
    kept, name = len(mask.kept), file.architecture
    counts, why = SIZES.get(name, (range(0), ""))
    if mask.dropped and (mask.n_blocks in counts or kept in counts):
        raise InputError(
            f"{file.path}: {mask.n_blocks} blocks cannot become {kept}, because llama.cpp computes a {name} model "
            f"{why}."
        )


def windows(file: GgufFile) -> list[bool] | None:
    """Whether each block has a sliding window; None if the architecture derives none from the block's number."""
    rule = WINDOWS.get(file.architecture)
    if rule is None or (rule.optional and not file.own("attention.sliding_window", 0)):
        return None
    stored = file.own(PATTERN, rule.period)
    if isinstance(stored, list):
        return [bool(value) for value in stored]
    return pattern(file.n_blocks, int(stored))


def pattern(n_blocks: int, period: int) -> list[bool]:
    """llama.cpp's rule (`set_swa_pattern`): the last block of each period has no window; period 0 means all have."""
    return [period == 0 or block % period < period - 1 for block in range(n_blocks)]


def window_lists(file: GgufFile, mask: Mask) -> dict[str, Sequence[bool]]:
    """The list of sliding windows that the smaller file needs, by its key; {} if the rule still gives it."""
    old = windows(file)
    if old is None or isinstance(file.own(PATTERN), list):
        return {}  # a stored list is cut as any other
    kept = [old[block] for block in mask.kept]
    period = int(file.own(PATTERN, WINDOWS[file.architecture].period))
    return {} if kept == pattern(len(kept), period) else {PATTERN: kept}
