"""Mend the keys of a GGUF file for fewer blocks: the number of blocks, and every list with one entry per block.

Keys that do not depend on the blocks keep their bytes. That includes everything about the tokenizer.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.gguf.container import Entry, GgufFile

RECORD = "depth_pruning.record"
# Keys with the number of blocks at the beginning that differ from the others.
COUNTS = ("leading_dense_block_count",)
# Lists whose length has nothing to do with the number of blocks.
NOT_PER_BLOCK = ("rope.dimension_sections", "classifier.output_labels")
# Keys of the blocks that llama.cpp names without the architecture: the activation function of Apertus.
BARE = ("xielu.",)
STALE = ("general.size_label", "general.parameter_count")  # they describe the size of the original model
UINT32, BOOL, STRING, ARRAY = 4, 7, 8, 9
FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def mended(
    file: GgufFile, mask: Mask, lists: Mapping[str, Sequence[bool]], record: Mapping[str, Any]
) -> Iterator[bytes]:
    """Yield each key of the smaller file with its value, as bytes.

    `mask` is over blocks. `lists` are lists of truth values to write under keys of the architecture, in place of any
    that the file has. `record` says where the file comes from. Raises InputError if a list of strings has an entry
    for each block.
    """
    prefix = f"{file.architecture}."
    for name, entry in file.entries.items():
        own = name.removeprefix(prefix) if name.startswith(prefix) else None
        if name == RECORD or name in STALE or own in lists:
            continue
        if own == "block_count":
            yield _scalar(file, entry, len(mask.kept))
        elif own in COUNTS:
            yield _scalar(file, entry, sum(block < int(file.value(name)) for block in mask.kept))
        elif per_block(entry, own, mask.n_blocks):
            yield _filtered(file, entry, mask)
        else:
            yield entry.raw
    for name, flags in lists.items():
        yield _flags(file, prefix + name, flags)
    text = json.dumps(record, sort_keys=True).encode()
    yield _key(file, RECORD, STRING) + struct.pack(f"{file.order}Q", len(text)) + text


def per_block(entry: Entry, own: str | None, n_blocks: int) -> bool:
    """Whether a key is a list with one entry for each block; `own` is its name without the architecture, or None."""
    described = own is not None or entry.name.startswith(BARE)
    return described and entry.kind == ARRAY and entry.length == n_blocks and own not in NOT_PER_BLOCK


def record_of(file: GgufFile) -> dict[str, Any] | None:
    """What an earlier cut wrote about the file; None if the file was not cut."""
    try:
        data = json.loads(file.value(RECORD, "null"))
    except ValueError:
        return None
    return data if isinstance(data, dict) else None


def _scalar(file: GgufFile, entry: Entry, value: int) -> bytes:
    return entry.raw[: entry.payload] + struct.pack(file.order + FORMATS[entry.kind], value)


def _filtered(file: GgufFile, entry: Entry, mask: Mask) -> bytes:
    """A list without the entries of removed blocks; the bytes of each kept entry are copied."""
    assert entry.item is not None
    if (form := FORMATS.get(entry.item)) is None:
        raise InputError(
            f"{file.path}: {entry.name} is a list of texts or lists with one entry per block, which cannot be cut."
        )
    size = struct.calcsize(file.order + form)
    items = [entry.raw[entry.payload + size * i : entry.payload + size * (i + 1)] for i in mask.kept]
    head = entry.raw[: entry.payload - 8] + struct.pack(f"{file.order}Q", len(items))
    return head + b"".join(items)


def _flags(file: GgufFile, name: str, flags: Sequence[bool]) -> bytes:
    return _key(file, name, ARRAY) + struct.pack(f"{file.order}IQ{len(flags)}?", BOOL, len(flags), *flags)


def _key(file: GgufFile, name: str, kind: int) -> bytes:
    text = name.encode()
    return struct.pack(f"{file.order}Q", len(text)) + text + struct.pack(f"{file.order}I", kind)
