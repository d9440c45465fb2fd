"""What the card of a cut GGUF file says about running it: with llama.cpp, with Ollama, and with transformers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pruning.export.model_card import Facts
from pruning.export.portable import code_block
from pruning.gguf.cut import GgufCut

COPIED = (
    "The weights were copied byte by byte from the original file: nothing was quantised or dequantised. The blocks "
    "were renumbered, and the number of blocks and all lists with one entry per block were corrected. The tokenizer "
    "and the chat template are those of the original file."
)


def with_use(facts: Facts, out: Path, sha256: str, notes: str, cut: GgufCut) -> Facts:
    """The same facts with the text on how the file is run. `notes` is a warning for some programs, or empty."""
    changed = len(cut.changes)
    copied = COPIED if not changed else f"{COPIED} Only {changed} tensors have other values, as said above."
    lines = [copied, *([notes] if notes else []), *_commands(out.name), f"SHA-256 of the file: `{sha256}`."]
    return dataclasses.replace(facts, use="\n\n".join(lines))


def _commands(name: str) -> list[str]:
    model = name.removesuffix(".gguf").lower()
    return [
        "With llama.cpp:",
        code_block(f'llama-cli -m {name} -p "Once upon a time"'),
        "With Ollama, a file `Modelfile` beside it:",
        code_block(f"FROM ./{name}"),
        code_block(f"ollama create {model} -f Modelfile\nollama run {model}"),
        "With transformers, which dequantises it:",
        code_block(f'AutoModelForCausalLM.from_pretrained(".", gguf_file="{name}")'),
    ]
