"""Read the keys and tensors of a GGUF file, and cut blocks out of the file without dequantising.

ggml's `docs/gguf.md` describes the format. This module reads the header itself: if the vocabulary is large,
the reader of the `gguf` package is 50 times slower than this module's.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np

from pruning.core.errors import InputError, first_line
from pruning.core.mask import Mask

BLOCK = re.compile(r"blk\.(\d+)\.(.+)")
BOOL, STRING, ARRAY = 7, 8, 9  # type numbers in the format
FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
SIZES_OF = {kind: struct.calcsize(form) for kind, form in FORMATS.items()}
RECORD = "depth_pruning.record"


@dataclass(frozen=True)
class KeyValue:
    """A key with its value; `raw` contains the bytes of both as they are in the file."""

    name: str
    raw: bytes
    kind: int
    item: int | None  # the type of a list's items; None if the value is not a list
    payload: int  # the offset in `raw` of the value or of a list's first item
    length: int  # the number of a list's items; 1 if the value is not a list


@dataclass(frozen=True)
class Stored:
    """A tensor: its shape as in the file (the contiguous axis first), its type, and its bytes (uint8)."""

    name: str
    shape: tuple[int, ...]
    kind: int
    data: Any

    @property
    def kind_name(self) -> str:
        """The name of the type, such as `F32` or `Q4_K`."""
        import gguf

        return str(gguf.GGMLQuantizationType(self.kind).name)

    @property
    def parameters(self) -> int:
        """The number of values in the tensor."""
        return math.prod(self.shape)

    @property
    def block(self) -> int | None:
        """The number of the block that the tensor belongs to; None if it belongs to no block."""
        match = BLOCK.fullmatch(self.name)
        return int(match[1]) if match else None


@dataclass(frozen=True)
class GgufFile:
    """An open GGUF file; `alignment` is in bytes."""

    path: Path
    version: int
    alignment: int
    entries: Mapping[str, KeyValue]
    tensors: Mapping[str, Stored]

    @cached_property
    def architecture(self) -> str:
        """The name of the architecture, which is also the prefix of its keys."""
        return str(self.value("general.architecture", ""))

    @cached_property
    def n_blocks(self) -> int:
        """The number of blocks; 0 if the file does not state it."""
        count = self.own("block_count", 0)
        return count if isinstance(count, int) else 0

    def value(self, name: str, default: Any = None) -> Any:
        """A key's value if it is a number, a string or a list of numbers; otherwise `default`."""
        if (entry := self.entries.get(name)) is None:
            return default
        if entry.kind == STRING:
            return entry.raw[entry.payload + 8 :].decode("utf-8", "replace")
        if (form := FORMATS.get(entry.kind if entry.item is None else entry.item)) is None:
            return default
        values = struct.unpack_from(f"<{entry.length}{form}", entry.raw, entry.payload)
        return values[0] if entry.item is None else list(values)

    def own(self, name: str, default: Any = None) -> Any:
        """The value of one of the architecture's keys; `name` is a key without prefix, such as `block_count`."""
        return self.value(f"{self.architecture}.{name}", default)

    def record(self) -> dict[str, Any] | None:
        """The record of the file's origin that `write_gguf` stored in it; None if there is no valid record."""
        try:
            data = json.loads(self.value(RECORD, "null"))
        except (ValueError, TypeError):
            return None
        return data if isinstance(data, dict) else None


def open_gguf(path: Path) -> GgufFile:
    """Open a GGUF file. Raises InputError if it is damaged or split, or contains no language model."""
    try:
        opened = _opened(path)
    except (ValueError, ArithmeticError, RecursionError, OSError, struct.error) as error:
        raise InputError(
            f"{path} cannot be read as GGUF ({first_line(error)}). It may be truncated or damaged: copy or download "
            "it anew."
        ) from error
    if isinstance(count := opened.value("split.count"), int) and count > 1:
        raise InputError(
            f"{path} is one of {count} parts of a model: join them first, with llama.cpp's "
            "`llama-gguf-split --merge`."
        )
    if not opened.architecture or not opened.n_blocks:
        raise InputError(
            f"{path} holds no language model (general.architecture is {opened.architecture!r}, and its block_count "
            f"is {opened.n_blocks})."
        )
    return opened


def _opened(path: Path) -> GgufFile:
    """The opened file. Raises ValueError, struct.error or another error if the file is damaged."""
    import gguf

    whole = np.memmap(path, np.uint8, "r")
    header = _Header(whole.data)
    version, n_tensors, n_keys = header.number("I"), header.number(), header.number()
    if bytes(whole[:4]) != b"GGUF" or version not in (2, 3):  # no current model uses version 1
        raise ValueError("it does not begin with GGUF and the version 2 or 3")
    entries = {entry.name: entry for entry in (header.entry() for _ in range(n_keys))}
    found = [header.tensor() for _ in range(n_tensors)]
    alignment = 32
    if (entry := entries.get("general.alignment")) is not None:
        (alignment,) = struct.unpack_from("<I", entry.raw, entry.payload)
    data_start, tensors = padded(header.at, alignment), {}
    for name, shape, kind, offset in found:
        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
        start, length = data_start + offset, math.prod(shape) * size // block
        if start + length > len(whole):
            raise ValueError(f"tensor {name} ends after the end of the file")
        tensors[name] = Stored(name, shape, kind, whole[start : start + length])
    return GgufFile(path, version, alignment, entries, tensors)


class _Header:
    """A reader of a file's header; `at` is the offset of the next byte. Reading past the end raises struct.error."""

    def __init__(self, data: memoryview) -> None:
        self.data, self.at = data, 4

    def number(self, form: str = "Q") -> int:
        """Read an integer."""
        (value,) = struct.unpack_from(f"<{form}", self.data, self.at)
        self.at += struct.calcsize(form)
        return int(value)

    def text(self) -> str:
        """Read a string, which the file stores after the string's length."""
        length = self.number()
        self.at += length
        return bytes(self.data[self.at - length : self.at]).decode("utf-8", "replace")

    def entry(self) -> KeyValue:
        """Read a key with its value."""
        start, name, kind = self.at, self.text(), self.number("I")
        payload, item, length = self.at, None, 1
        if kind == ARRAY:
            item, length = struct.unpack_from("<IQ", self.data, self.at)
            payload += 12
        self._skip(kind)
        return KeyValue(name, bytes(self.data[start : self.at]), kind, item, payload - start, length)

    def _skip(self, kind: int, count: int = 1) -> None:
        """Skip `count` values of the type `kind`."""
        if kind in SIZES_OF:
            self.at += count * SIZES_OF[kind]
        elif kind == STRING:
            for _ in range(count):
                length = self.number()
                self.at += length
        elif kind == ARRAY:
            for _ in range(count):
                self._skip(self.number("I"), self.number())
        else:
            raise ValueError(f"a key has the unknown type {kind}")

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """Read the name, shape, type and offset of a tensor."""
        name, axes = self.text(), self.number("I")
        return name, tuple(self.number() for _ in range(axes)), self.number("I"), self.number()


def padded(size: int, alignment: int) -> int:
    """`size`, rounded up to a multiple of `alignment`."""
    return -(-size // alignment) * alignment


# A copy of the embedding as the output layer. Converters write one for tied models, often in a more precise type.

EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
ROWS = 4096  # how many tokens' vectors are dequantised at a time
# Rounding to b bits a weight changes a vector by about 2^-b of its length, and by less than three times as much.
# More than HALF bits count as HALF, those of a BF16 value.
MARGIN, HALF = 3.0, 8.0


def copied_head(file: GgufFile) -> Stored | None:
    """The more precise of embedding and output layer, if these are the same weights up to rounding; else None.

    The vectors of each token must differ by no more than the types of the two tensors explain.
    """
    pair = [file.tensors[name] for name in (EMBEDDING, OUTPUT) if name in file.tensors]
    if len(pair) < 2 or pair[0].shape != pair[1].shape:
        return None
    bits = [8 * len(tensor.data) / tensor.parameters for tensor in pair]
    most = MARGIN * sum(2.0 ** -min(each, HALF) for each in bits)
    for embedded, head in zip(*map(vectors, pair), strict=True):
        length = np.maximum(np.linalg.norm(embedded, axis=1), np.linalg.norm(head, axis=1))
        if (np.linalg.norm(embedded - head, axis=1) > most * length).any():
            return None
    return pair[bits[1] >= bits[0]]


def vectors(tensor: Stored) -> Iterator[Any]:
    """Yield the values of a matrix in float32, `ROWS` rows at a time."""
    import gguf

    rows = tensor.data.reshape(tensor.shape[1], -1)
    for start in range(0, len(rows), ROWS):
        yield gguf.quants.dequantize(rows[start : start + ROWS], gguf.GGMLQuantizationType(tensor.kind))


def tie_copy(module: Any, head: Stored) -> None:
    """Give the weight that embedding and output layer of a tied model share the values of `head`."""
    import torch

    weight, start = module.get_input_embeddings().weight, 0
    with torch.no_grad():
        for part in vectors(head):
            weight[start : start + len(part)] = torch.tensor(part).to(weight)
            start += len(part)
    module.tie_weights()
    # transformers found two tensors that differ, and no longer counted the two as tied.
    module.all_tied_weights_keys = module.get_expanded_tied_weights_keys(all_submodels=True)


# Properties that llama.cpp derives from a block's number or from the number of blocks, by architecture.
#
# A cut renumbers blocks, so these properties would change without an error. The tables follow llama.cpp's
# `src/models/*.cpp` at commit 0c1e570 (September 2026), which llama-cpp-python 0.3.36 contains. Architectures
# that are in none of the tables are refused.

PATTERN = "attention.sliding_window_pattern"
# Architectures without such properties. Their blocks can differ only through lists with one entry per block.
# fmt: off
PLAIN = frozenset([
    "apertus", "arcee", "bloom", "codeshell", "deepseek", "dots1", "exaone", "falcon", "gemma", "glm4",
    "gpt2", "gptneox", "granite", "granitemoe", "hunyuan-dense", "hunyuan-moe", "internlm2", "lfm2",
    "llama", "mamba", "minimax-m2", "mistral3", "mpt", "nemotron", "olmo", "olmoe", "orion", "phi2",
    "phi3", "phimoe", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "seed_oss", "stablelm", "starcoder",
    "starcoder2", "xverse",
])
# fmt: on
# Period lengths, unless the file has a pattern: in a period, all blocks but the last have a sliding window.
WINDOWS = {"cohere2": 4, "gemma2": 2, "gemma3": 6, "gpt-oss": 2, "olmo2": 4}
OPTIONAL = ("gemma3", "olmo2")  # if the key for the window's length is missing, no block has a window
# Architectures that compute differently at some sizes, which llama.cpp infers from the number of blocks.
SIZES = {
    "command-r": (range(64, 1000), "with norms for queries and keys from 64 blocks on"),
    "gemma2": (range(46, 47), "with another scale of attention at 46 blocks (the 27B model)"),
    "gemma3": (range(62, 63), "with another scale of attention at 62 blocks (the 27B model)"),
}
# Keys which show that blocks depend on other blocks; the last key contains tensor names with block numbers.
TIED = ("{}.attention.shared_kv_layers", "{}.nextn_predict_layers", "general.tensor_extra.name")


def check_known(file: GgufFile) -> None:
    """Raise InputError, with the reason, unless llama.cpp is known to compute the kept blocks as before."""
    name, known = file.architecture, PLAIN | set(WINDOWS) | set(SIZES)
    if name not in known:
        raise InputError(
            f"{file.path} holds a model of the architecture {name}: llama.cpp derives something from the numbers of "
            f"its blocks, or it was not checked that it does not. Choose one of "
            f"{', '.join(sorted(known))}; or export a directory (out=DIR) and convert it."
        )
    for key in (key.format(name) for key in TIED):
        if key in file.entries and (value := file.value(key, "a list")):
            raise InputError(f"{file.path} has {key}={value}: such blocks cannot be cut apart.")


def pattern(n_blocks: int, period: int) -> list[bool]:
    """Whether each block has a sliding window: each `period`-th block has none; if `period` is 0, all have one."""
    return [period == 0 or block % period < period - 1 for block in range(n_blocks)]


def window_lists(file: GgufFile, mask: Mask) -> dict[str, Sequence[bool]]:
    """The key and list for the smaller file that say which kept blocks have sliding windows; {} if not needed."""
    name = file.architecture
    if name not in WINDOWS or (name in OPTIONAL and not file.own("attention.sliding_window", 0)):
        return {}
    period = file.own(PATTERN, WINDOWS[name])
    if isinstance(period, list):
        return {}  # `_entries` cuts this list like any other list
    old = pattern(mask.n_blocks, int(period))
    kept = [old[block] for block in mask.kept]
    return {} if kept == pattern(len(kept), int(period)) else {PATTERN: kept}


# Cut blocks out of a GGUF file: choose and rename the kept tensors, and make the new header.


@dataclass(frozen=True)
class GgufCut:
    """A planned smaller file. `mask` is over blocks; `names` maps the old name of each kept tensor to its new name.

    `lists` maps keys to lists of booleans, one per kept block. For the original file, llama.cpp derives these
    values from block numbers. `record` describes the origin of the file.
    """

    file: GgufFile
    mask: Mask
    names: Mapping[str, str]
    lists: Mapping[str, Any]
    record: Mapping[str, Any]

    @property
    def kept(self) -> list[Stored]:
        """The tensors that stay, in the order of the original file."""
        return [tensor for tensor in self.file.tensors.values() if tensor.name in self.names]


def plan_gguf(file: GgufFile, mask: Mask, record: Mapping[str, Any]) -> GgufCut:
    """Plan a file without the blocks that `mask` removes. No weights are read.

    Raises InputError if the file does not fit the mask, or llama.cpp might compute kept blocks differently.
    """
    if file.n_blocks != mask.n_blocks:
        raise InputError(
            f"the mask is over {mask.n_blocks} blocks and {file.path} has {file.n_blocks}: give the model that the "
            "mask was made for (model=local model.path=FILE.gguf)."
        )
    check_known(file)
    counts, why = SIZES.get(file.architecture, (range(0), ""))
    if mask.dropped and (mask.n_blocks in counts or len(mask.kept) in counts):
        raise InputError(
            f"{file.path}: {mask.n_blocks} blocks cannot become {len(mask.kept)}, because llama.cpp computes a "
            f"{file.architecture} model {why}."
        )
    numbers = {tensor.block for tensor in file.tensors.values() if tensor.block is not None}
    if numbers != set(range(mask.n_blocks)):
        raise InputError(
            f"{file.path} has tensors for the blocks {sorted(numbers)}, not for 0 to {mask.n_blocks - 1}: it is "
            "incomplete, or has blocks after the last one, which is not supported."
        )
    new = {old: number for number, old in enumerate(mask.kept)}
    names = {}
    for name, tensor in file.tensors.items():
        if tensor.block is None:
            names[name] = name
        elif tensor.block in new:
            names[name] = f"blk.{new[tensor.block]}.{name.split('.', 2)[2]}"
    return GgufCut(file, mask, names, window_lists(file, mask), record)


def size_of(cut: GgufCut) -> int:
    """The size of the smaller file in bytes."""
    return len(_head(cut)) + sum(padded(len(tensor.data), cut.file.alignment) for tensor in cut.kept)


def write_gguf(cut: GgufCut, stream: IO[bytes]) -> None:
    """Write the smaller file. Tensors are copied from a memory map, so large models need little memory, too."""
    stream.write(_head(cut))
    for tensor in cut.kept:
        size = len(tensor.data)
        stream.write(memoryview(tensor.data))
        stream.write(bytes(padded(size, cut.file.alignment) - size))


def _head(cut: GgufCut) -> bytes:
    """The bytes before the first tensor's data, padded to the alignment."""
    file, start = cut.file, 0
    entries = list(_entries(cut))
    parts = [b"GGUF", struct.pack("<IQQ", file.version, len(cut.names), len(entries)), *entries]
    for tensor in cut.kept:
        name = cut.names[tensor.name].encode()
        shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        parts += [struct.pack("<Q", len(name)), name, shape]
        parts.append(struct.pack("<IQ", tensor.kind, start))
        start += padded(len(tensor.data), file.alignment)
    head = b"".join(parts)
    return head.ljust(padded(len(head), file.alignment), b"\0")


# The keys of a smaller file. Keys that do not depend on the blocks, such as those of the tokenizer, are copied.

COUNTS = ("leading_dense_block_count",)  # keys with the number of leading blocks that differ from the others
# Lists whose length does not depend on the number of blocks.
NOT_PER_BLOCK = ("rope.dimension_sections", "classifier.output_labels")
BARE = ("xielu.",)  # prefixes of per-block keys that lack the architecture's name (activations of Apertus)
STALE = ("general.size_label", "general.parameter_count")  # left out: sizes of the original model


def _entries(cut: GgufCut) -> Iterator[bytes]:
    """Yield each key of the smaller file with its value, as bytes."""
    file, mask = cut.file, cut.mask
    prefix = f"{file.architecture}."

    def key(name: str, kind: int) -> bytes:
        return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind)

    for name, entry in file.entries.items():
        own = name.removeprefix(prefix) if name.startswith(prefix) else None
        listed = entry.kind == ARRAY and entry.length == mask.n_blocks and own not in NOT_PER_BLOCK
        if name == RECORD or name in STALE or own in cut.lists:
            continue
        if own == "block_count" or own in COUNTS:
            most = mask.n_blocks if own == "block_count" else int(file.value(name))
            kept = sum(block < most for block in mask.kept)
            yield entry.raw[: entry.payload] + struct.pack("<" + FORMATS[entry.kind], kept)
        elif listed and (own is not None or name.startswith(BARE)):
            if (size := SIZES_OF.get(entry.item or 0)) is None:
                raise InputError(
                    f"{file.path}: {name} is a list of texts or lists with one entry per block, which cannot be cut."
                )
            starts = [entry.payload + size * block for block in mask.kept]
            items = [entry.raw[start : start + size] for start in starts]
            yield entry.raw[: entry.payload - 8] + struct.pack("<Q", len(items)) + b"".join(items)
        else:
            yield entry.raw
    for name, flags in cut.lists.items():
        yield key(prefix + name, ARRAY) + struct.pack(f"<IQ{len(flags)}?", BOOL, len(flags), *flags)
    text = json.dumps(cut.record, sort_keys=True).encode()
    yield key(RECORD, STRING) + struct.pack("<Q", len(text)) + text
