"""Open a GGUF file: its keys, its tensors and their bytes. Nothing is copied, because the file is mapped into memory.

The format is described in ggml's `docs/gguf.md`. The `gguf` package parses it; here its errors become sentences.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pruning.core.errors import InputError, first_line
from pruning.core.gguf_header import check_header

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
