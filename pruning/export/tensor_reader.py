"""Read the tensors of a model one at a time, from safetensors files or from a model in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from pruning.core.errors import InputError, first_line
from pruning.models.weight_files import INDEX, SINGLE, weight_files


class Tensors(Protocol):
    """The tensors of a checkpoint: `shapes` lists them without reading them, and `read` reads one."""

    def shapes(self) -> Mapping[str, Tensor]:
        """Tensors on the meta device by name, in the best order for reading."""
        ...

    def read(self, name: str) -> Tensor:
        """One tensor, on the CPU."""
        ...


class Checkpoint:
    """The tensors in the safetensors files of a directory; one file is open at a time."""

    def __init__(self, folder: Path) -> None:
        self.files = _files(folder)
        self._open: tuple[str, Any] | None = None

    def shapes(self) -> Mapping[str, Tensor]:
        """See `Tensors`; only the headers of the files are read."""
        shapes = {}
        for name, path in self.files.items():
            with _reading(path):
                part = self._handle(path).get_slice(name)
            if (dtype := DTYPES.get(part.get_dtype())) is None:
                raise InputError(
                    f"tensor {name} of {path} is stored in {part.get_dtype()}, which cannot be cut: give a "
                    f"checkpoint in one of {', '.join(DTYPES)}."
                )
            shapes[name] = torch.empty(part.get_shape(), dtype=getattr(torch, dtype), device="meta")
        return shapes

    def read(self, name: str) -> Tensor:
        """One tensor, on the CPU."""
        with _reading(self.files[name]):
            tensor: Tensor = self._handle(self.files[name]).get_tensor(name)
        return tensor

    def _handle(self, path: Path) -> Any:
        from safetensors import safe_open

        if self._open is None or self._open[0] != str(path):
            self._open = (str(path), safe_open(path, framework="pt"))
        return self._open[1]


DTYPES = {
    **{f"F{n}": f"float{n}" for n in (16, 32, 64)},
    **{f"I{n}": f"int{n}" for n in (8, 16, 32, 64)},
    **{f"U{n}": f"uint{n}" for n in (8, 16, 32, 64)},
    "BF16": "bfloat16",
    "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}


def _files(folder: Path) -> dict[str, Path]:
    """The file of each tensor, sorted by file. Raises InputError if there are no weights, or if a file is missing."""
    from safetensors import safe_open

    files = weight_files(folder)
    if not files:
        raise InputError(f"{folder} holds neither {SINGLE} nor {INDEX}.")
    if (single := files.get("")) is None:
        return dict(sorted(files.items(), key=lambda item: item[1]))
    with _reading(single), safe_open(single, framework="pt") as stream:
        return dict.fromkeys(stream.keys(), single)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn an error of reading a weight file into an InputError that names the file."""
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} cannot be read ({first_line(error)}). It may be truncated: copy or download it again."
        ) from error


class Loaded:
    """The tensors of a model in memory, without tied copies; for weights that only transformers can read (GGUF)."""

    def __init__(self, model: Any) -> None:
        tied = getattr(model, "all_tied_weights_keys", None) or {}
        self.state = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}

    def shapes(self) -> Mapping[str, Tensor]:
        """See `Tensors`; taken from the model's state dictionary."""
        return {name: tensor.to("meta") for name, tensor in self.state.items()}

    def read(self, name: str) -> Tensor:
        """One tensor, on the CPU."""
        tensor: Tensor = self.state[name].cpu()
        return tensor
