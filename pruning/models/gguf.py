"""Open a GGUF file: its keys, its tensors and their bytes. Nothing is copied, because the file is mapped into memory.

The format is described in ggml's `docs/gguf.md`. The `gguf` package parses it; here its errors become sentences.
"""

from __future__ import annotations

import json
import math
import mmap
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from pruning.core.errors import InputError, first_line
from pruning.core.mask import Mask

if TYPE_CHECKING:
    import torch


BLOCK = re.compile(r"blk\.(\d+)\.(.+)")
SPLIT = "split.count"


@dataclass(frozen=True)
class Entry:
    """A key with its value, as stored: `raw` holds the bytes of both.

    `item` is the type of a list's items, else None. `kind` and `item` are numbers of the format
    (`gguf.GGUFValueType`). `payload` is where the value starts in `raw`, or the first item of a list.
    """

    name: str
    raw: bytes
    kind: int
    item: int | None
    payload: int
    length: int  # items of a list, else 1


@dataclass(frozen=True)
class Stored:
    """A tensor: its shape in the order of the file (the fastest axis first), its type, and its bytes (uint8)."""

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
        """The number of values."""
        return math.prod(self.shape)

    @property
    def block(self) -> int | None:
        """The number of the block that the tensor belongs to; None if it is in no block."""
        match = BLOCK.fullmatch(self.name)
        return int(match[1]) if match else None

    def renamed(self, number: int) -> str:
        """The name of the same tensor in another block."""
        return f"blk.{number}.{self.name.split('.', 2)[2]}"


@dataclass(frozen=True)
class GgufFile:
    """An open GGUF file. `order` is its byte order for `struct`, `<` or `>`; `alignment` is in bytes."""

    path: Path
    version: int
    order: str
    alignment: int
    entries: dict[str, Entry]
    tensors: tuple[Stored, ...]
    reader: Any

    @cached_property
    def architecture(self) -> str:
        """The name of the architecture, which is also the beginning of its keys."""
        return str(self.value("general.architecture", ""))

    def value(self, name: str, default: Any = None) -> Any:
        """The value of a key; `default` if the file lacks the key."""
        field = self.reader.fields.get(name)
        return default if field is None else field.contents()

    def own(self, name: str, default: Any = None) -> Any:
        """The value of a key of the architecture, without the architecture's name: `block_count`."""
        return self.value(f"{self.architecture}.{name}", default)

    @property
    def n_blocks(self) -> int:
        """The number of blocks."""
        return int(self.own("block_count", 0))

    def tensor(self, name: str) -> Stored | None:
        """The tensor of a name; None if there is none."""
        return self._by_name.get(name)

    @cached_property
    def _by_name(self) -> dict[str, Stored]:
        return {tensor.name: tensor for tensor in self.tensors}


def open_gguf(path: Path) -> GgufFile:
    """Open a GGUF file. Raises InputError if it is damaged, in parts, or not a language model."""
    import gguf

    try:
        check_header(path)
        reader = gguf.GGUFReader(path)
        entries = {name: _entry(reader, field) for name, field in reader.fields.items() if field.parts[2:]}
        tensors = tuple(_stored(reader, tensor) for tensor in reader.tensors)
    except (ValueError, KeyError, IndexError, OSError, OverflowError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read as GGUF ({first_line(error)}). It may be truncated: copy or download it anew."
        ) from error
    order = ">" if reader.endianess == gguf.GGUFEndian.BIG else "<"
    version = int(reader.fields["GGUF.version"].parts[0][0])
    opened = GgufFile(path, version, order, int(reader.alignment), entries, tensors, reader)
    if (count := int(opened.value(SPLIT, 1))) > 1:
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


def _entry(reader: Any, field: Any) -> Entry:
    """A key and its value. The parts of a field follow each other in the file: name, type, value."""
    import gguf

    raw = bytes(reader.data[field.offset : field.offset + sum(int(part.nbytes) for part in field.parts)])
    kind, start = int(field.parts[2][0]), sum(int(part.nbytes) for part in field.parts[:3])
    if kind != gguf.GGUFValueType.ARRAY:
        return Entry(field.name, raw, kind, None, start, 1)
    head = sum(int(part.nbytes) for part in field.parts[3:5])  # the items' type and number
    return Entry(field.name, raw, kind, int(field.parts[3][0]), start + head, int(field.parts[4][0]))


def _stored(reader: Any, tensor: Any) -> Stored:
    start, size = int(tensor.data_offset), int(tensor.n_bytes)
    data = reader.data[start : start + size]
    if len(data) != size:
        raise ValueError(f"tensor {tensor.name} ends after the end of the file")
    return Stored(tensor.name, tuple(int(n) for n in tensor.shape), int(tensor.tensor_type), data)


# What llama.cpp derives from a block's number or from the number of blocks, by architecture.
#
# A cut moves blocks to other numbers, so whatever is derived from them would change in silence. The tables follow
# llama.cpp's `src/models/*.cpp` at commit 0c1e570 (September 2026), the one in llama-cpp-python 0.3.36. An
# architecture that is in none of them is refused.

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


# Cut blocks out of a GGUF file: which tensors stay, under which names, and the new beginning of the file.

PIECE = 1 << 26  # bytes that are copied at once
Change = Callable[[Any], Any]  # the bytes (uint8) of a tensor -> as many new bytes


@dataclass(frozen=True)
class GgufCut:
    """A planned file. `mask` is over blocks; `names` holds the new name of each tensor that stays, by its old one.

    `changes` are made to the bytes of tensors, by their old names; all others are copied. `lists` are truth values
    for blocks that the original file derives from their numbers.
    """

    file: GgufFile
    mask: Mask
    names: Mapping[str, str]
    lists: Mapping[str, Any]
    record: Mapping[str, Any]
    changes: Mapping[str, Change] = field(default_factory=dict)

    @property
    def kept(self) -> list[Stored]:
        """The tensors that stay, in the order of the original file."""
        return [tensor for tensor in self.file.tensors if tensor.name in self.names]


def plan_gguf(file: GgufFile, mask: Mask, record: Mapping[str, Any]) -> GgufCut:
    """Plan the file without the blocks that a mask over blocks removes. No weights are read.

    Raises InputError if the file has another number of blocks, or if the cut would change a block that is kept.
    """
    if file.n_blocks != mask.n_blocks:
        raise InputError(
            f"the mask is over {mask.n_blocks} blocks and {file.path} has {file.n_blocks}: give the model that the "
            "mask was made for (model=local model.path=FILE.gguf)."
        )
    check_architecture(file, mask)
    numbers = {tensor.block for tensor in file.tensors} - {None}
    if numbers != set(range(mask.n_blocks)):
        raise InputError(
            f"{file.path} has tensors for the blocks {sorted(n for n in numbers if n is not None)}, not for 0 to "
            f"{mask.n_blocks - 1}: it is incomplete, or has blocks after the last one, which is not supported."
        )
    new = {old: number for number, old in enumerate(mask.kept)}
    names = {
        tensor.name: tensor.name if tensor.block is None else tensor.renamed(new[tensor.block])
        for tensor in file.tensors
        if tensor.block is None or tensor.block in new
    }
    return GgufCut(file, mask, names, window_lists(file, mask), record)


def size_of(cut: GgufCut) -> int:
    """The size of the smaller file in bytes."""
    return len(_head(cut)) + sum(_padded(len(tensor.data), cut.file.alignment) for tensor in cut.kept)


def write_gguf(cut: GgufCut, stream: IO[bytes]) -> None:
    """Write the smaller file. Tensors are copied in pieces, so memory does not grow with the size of the model."""
    stream.write(_head(cut))
    for tensor in cut.kept:
        for piece in _pieces(tensor, cut.changes.get(tensor.name)):
            stream.write(piece)
        stream.write(bytes(_padded(len(tensor.data), cut.file.alignment) - len(tensor.data)))


def _pieces(tensor: Stored, change: Change | None) -> Iterator[memoryview]:
    data = tensor.data if change is None else change(tensor.data)
    if len(data) != len(tensor.data):
        raise ValueError(f"{tensor.name} would change its size from {len(tensor.data)} to {len(data)} bytes")
    for start in range(0, len(data), PIECE):
        yield memoryview(data[start : start + PIECE])


def _head(cut: GgufCut) -> bytes:
    """Everything before the first tensor, padded."""
    file, order = cut.file, cut.file.order
    entries = list(mended(file, cut.mask, cut.lists, cut.record))
    head = (
        b"GGUF" + struct.pack(f"{order}IQQ", file.version, len(cut.names), len(entries)) + b"".join(entries)
    )
    start = 0
    for tensor in cut.kept:
        name = cut.names[tensor.name].encode()
        shape = struct.pack(f"{order}I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        head += (
            struct.pack(f"{order}Q", len(name)) + name + shape + struct.pack(f"{order}IQ", tensor.kind, start)
        )
        start += _padded(len(tensor.data), file.alignment)
    return head.ljust(_padded(len(head), file.alignment), b"\0")


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


# The values of tensors that are stored as floating-point numbers: F32, F16 and BF16.

DTYPES = {0: "float32", 1: "float16", 30: "bfloat16"}  # by the number of the type in the format


def dtype_of(tensor: Stored) -> torch.dtype:
    """The precision of a tensor. Raises InputError if it is quantised."""
    import torch

    if tensor.kind not in DTYPES:
        raise InputError(
            f"{tensor.name} is quantised ({tensor.kind_name}), so nothing can be folded into it without quantising "
            "it anew: cut a GGUF file in F32 or F16 and quantise the result with llama.cpp's llama-quantize; or "
            "search with compensation=none."
        )
    found: torch.dtype = getattr(torch, DTYPES[tensor.kind])
    return found


def decoded(tensor: Stored, order: str, data: Any = None) -> torch.Tensor:
    """The values of a tensor, or of other bytes of its size: a copy in its precision, the slowest axis first.

    `order` is the byte order of the file, `<` or `>`. Raises InputError if the tensor is quantised.
    """
    import torch

    dtype = dtype_of(tensor)
    raw = np.frombuffer(bytes(tensor.data if data is None else data), f"{order}i{dtype.itemsize}")
    values = torch.from_numpy(raw.astype(f"i{dtype.itemsize}")).view(dtype)
    return values.reshape(tensor.shape[::-1])


def encoded(values: torch.Tensor, tensor: Stored, order: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Values as the bytes of a tensor, rounded to its precision. Raises InputError if a value becomes infinite."""
    import torch

    rounded = values.to(dtype_of(tensor)).contiguous()
    if not bool(torch.isfinite(rounded).all()):
        raise InputError(
            f"{tensor.name} would hold values that {tensor.kind_name} cannot represent: cut a GGUF file in F32."
        )
    whole = torch.int32 if rounded.dtype.itemsize == 4 else torch.int16
    raw = rounded.reshape(-1).view(whole).numpy().astype(f"{order}i{rounded.dtype.itemsize}")
    return np.frombuffer(raw.tobytes(), np.uint8)


# Mend the keys of a GGUF file for fewer blocks: the number of blocks, and every list with one entry per block.
#
# Keys that do not depend on the blocks keep their bytes. That includes everything about the tokenizer.

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


# Check the header of a GGUF file before a library reads it: no number in it may ask for more than the file holds.
#
# Readers loop over what a header announces. A list of 2^33 entries or 2^31 blocks would keep them busy for ever.
# The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

MAGIC = b"GGUF"
HEADER_SIZES = {
    0: 1,
    1: 1,
    2: 2,
    3: 2,
    4: 4,
    5: 4,
    6: 4,
    7: 1,
    10: 8,
    11: 8,
    12: 8,
}  # bytes of each type of number
INTEGERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 10: "Q", 11: "q"}
HEADER_STRING, HEADER_ARRAY = 8, 9
# The most that is read, even if a file has room for more: far above every model, and read in seconds.
KEYS, TENSORS, ITEMS, AXES, DEPTH = 1 << 16, 1 << 20, 1 << 24, 8, 4
VALUES_PER_BYTE = 8  # the smallest weights have more than one bit
COUNTED = (
    ".block_count",
    ".expert_count",
)  # keys whose numbers are loops over tensors, or over an axis of one


def check_header(path: Path) -> None:
    """Raise InputError, which names the number, if a header asks for more than its file can hold."""
    state = path.stat()
    _check(path, state.st_size, state.st_mtime_ns, state.st_ino)


@lru_cache(maxsize=64)
def _check(path: Path, size: int, _changed: int, _inode: int) -> None:
    try:
        if size < 4 * 6:
            raise ValueError(f"it has {size} bytes")
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _Header(data, size).check()
    except (ValueError, struct.error, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read as GGUF ({error}). It may be truncated or damaged: copy or download it anew."
        ) from error


@dataclass
class _Header:
    """A walk through the header of a file; `at` is the next byte."""

    data: mmap.mmap
    size: int
    at: int = 0
    order: str = "<"
    items: int = 0  # of all lists so far

    def check(self) -> None:
        """Walk through keys and tensors. Raises ValueError, which says what is wrong."""
        if self.data[:4] != MAGIC:
            raise ValueError("it does not begin with GGUF")
        self.at = 4
        version = self._number("I")
        if version & 0xFFFF == 0:  # written on a machine with the other order of bytes
            self.order, version = ">", int.from_bytes(version.to_bytes(4, "little"), "big")
        if version not in (2, 3):
            raise ValueError(f"its version is {version}, and 2 and 3 are known")
        tensors = self._count("tensors", 24, TENSORS)
        keys = self._count("keys", 13, KEYS)
        counts = dict(self._key() for _ in range(keys))
        axis = max((self._tensor() for _ in range(tensors)), default=0)
        for name, value in counts.items():
            most = tensors if name.endswith(COUNTED[0]) else axis
            if name.endswith(COUNTED) and not 0 <= value <= most:
                raise ValueError(f"{name} is {value:,}, and its {tensors} tensors allow at most {most:,}")

    def _number(self, form: str) -> int:
        (value,) = struct.unpack_from(self.order + form, self.data, self.at)
        self.at += struct.calcsize(form)
        return int(value)

    def _count(self, what: str, least: int, most: int | None = None) -> int:
        """A number of things of at least `least` bytes each."""
        count = self._number("Q")
        room = (self.size - self.at) // least
        if count > (room if most is None else min(room, most)):
            raise ValueError(f"it announces {count:,} {what}, and it has {self.size:,} bytes")
        return count

    def _text(self, what: str) -> str:
        length = self._count(f"bytes of {what}", 1)
        text = self.data[self.at : self.at + length].decode("utf-8", "replace")
        self.at += length
        return text

    def _key(self) -> tuple[str, int]:
        """The name of a key, and its value if that is a whole number; else 0."""
        name, kind = self._text("a key's name"), self._number("I")
        start = self.at
        self._skip(name, kind, 0)
        form = INTEGERS.get(kind)
        return name, 0 if form is None else int(struct.unpack_from(self.order + form, self.data, start)[0])

    def _skip(self, name: str, kind: int, depth: int) -> None:
        if kind == HEADER_STRING:
            length = self._count(f"bytes of {name}", 1)
            self.at += length
        elif kind == HEADER_ARRAY:
            self._skip_list(name, depth)
        elif kind in HEADER_SIZES:
            self.at += HEADER_SIZES[kind]
        else:
            raise ValueError(f"{name} has the unknown type {kind}")

    def _skip_list(self, name: str, depth: int) -> None:
        if depth == DEPTH:
            raise ValueError(f"{name} is a list in {depth} lists")
        kind = self._number("I")
        count = self._count(f"items of {name}", HEADER_SIZES.get(kind, 8), ITEMS - self.items)
        self.items += count
        if kind in HEADER_SIZES:
            self.at += count * HEADER_SIZES[kind]
            return
        for _ in range(count):
            self._skip(name, kind, depth + 1)

    def _tensor(self) -> int:
        """Pass a tensor's description; returns the length of its longest axis."""
        name, axes = self._text("a tensor's name"), self._number("I")
        if axes > AXES:
            raise ValueError(f"tensor {name} has {axes:,} axes")
        shape = [self._number("Q") for _ in range(axes)]
        if math.prod(shape) > VALUES_PER_BYTE * self.size:
            raise ValueError(
                f"tensor {name} has {math.prod(shape):,} values, and the file has {self.size:,} bytes"
            )
        self.at += 4
        if (offset := self._number("Q")) > self.size:
            raise ValueError(f"tensor {name} begins at byte {offset:,} of {self.size:,}")
        return max(shape, default=0)
