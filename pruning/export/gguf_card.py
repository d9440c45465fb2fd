"""What the card of a cut GGUF file says about running it: with llama.cpp, with Ollama, and with transformers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pruning.export.model_card import Facts
from pruning.export.portable import code_block
from pruning.gguf.architectures import PATTERN
from pruning.gguf.cut import GgufCut

COPIED = (
    "The weights were copied byte by byte from the original file: nothing was quantised or dequantised. The blocks "
    "were renumbered, and the number of blocks and all lists with one entry per block were corrected. The tokenizer "
    "and the chat template are those of the original file."
)


MOVED = (
    "The kinds of the blocks that are left (sliding window or full attention) no longer follow the rule by which "
    "the architecture derives them from a block's number. The file lists them (`{key}`). llama.cpp reads this list; "
    "programs that only know the rule, such as transformers' loader for GGUF files and old releases of llama.cpp, "
    "compute something else."
)


def with_use(facts: Facts, out: Path, sha256: str, cut: GgufCut, moved: bool) -> Facts:
    """The same facts with the text on how the file is run.

    `moved` says that the kinds of the blocks do not follow from their numbers in transformers; the cut says whether
    that is so in llama.cpp.
    """
    changed = len(cut.changes)
    lines = [COPIED if not changed else f"{COPIED} Only {changed} tensors have other values, as said above."]
    lines += _commands(out.name)
    if moved or cut.lists:
        lines.append(MOVED.format(key=f"{cut.file.architecture}.{PATTERN}"))
    else:
        load = code_block(f'AutoModelForCausalLM.from_pretrained(".", gguf_file="{out.name}")')
        lines += ["With transformers, which dequantises it:", load]
    lines.append(f"SHA-256 of the file: `{sha256}`.")
    return dataclasses.replace(facts, use="\n\n".join(lines))


def _commands(name: str) -> list[str]:
    model = name.removesuffix(".gguf").lower()
    return [
        "With llama.cpp:",
        code_block(f'llama-cli -m {name} -p "Once upon a time"'),
        "With Ollama, a file `Modelfile` beside it:",
        code_block(f"FROM ./{name}"),
        code_block(f"ollama create {model} -f Modelfile\nollama run {model}"),
    ]
