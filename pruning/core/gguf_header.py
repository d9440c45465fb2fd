"""Check the header of a GGUF file before a library reads it: no number in it may ask for more than the file holds.

Readers loop over what a header announces. A list of 2^33 entries or 2^31 blocks would keep them busy for ever.
The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pruning.core.errors import InputError

MAGIC = b"GGUF"
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of each type of number
INTEGERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 10: "Q", 11: "q"}
STRING, ARRAY = 8, 9
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
        if kind == STRING:
            length = self._count(f"bytes of {name}", 1)
            self.at += length
        elif kind == ARRAY:
            self._skip_list(name, depth)
        elif kind in SIZES:
            self.at += SIZES[kind]
        else:
            raise ValueError(f"{name} has the unknown type {kind}")

    def _skip_list(self, name: str, depth: int) -> None:
        if depth == DEPTH:
            raise ValueError(f"{name} is a list in {depth} lists")
        kind = self._number("I")
        count = self._count(f"items of {name}", SIZES.get(kind, 8), ITEMS - self.items)
        self.items += count
        if kind in SIZES:
            self.at += count * SIZES[kind]
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
