"""Cut blocks out of a GGUF file: which tensors stay, under which names, and the new beginning of the file."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.gguf.architectures import check_architecture, window_lists
from pruning.gguf.container import GgufFile, Stored
from pruning.gguf.metadata import mended

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
