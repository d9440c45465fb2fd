"""Find the GGUF file of a model: given by its path, on a hub, or in a package of the Python index."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pruning.core.errors import InputError
from pruning.models.checkpoint import hub_gguf
from pruning.models.directory import gguf_of
from pruning.models.packaged import gguf_of_package
from pruning.models.spec import Model

CONVERT = (
    "blocks are cut out of a GGUF file only if the model is one. Export a directory (out=DIR) and convert that with "
    "llama.cpp's convert_hf_to_gguf.py (docs/gguf.md has the commands); or give a GGUF file of the model, with "
    "model=local model.path=FILE.gguf and the cell's mask.json"
)


@dataclass(frozen=True)
class GgufSource:
    """The GGUF file of a model, and the settings with which transformers loads it."""

    path: Path
    settings: Model


def find_gguf(settings: Model) -> GgufSource:
    """The GGUF file of a model; one on a hub or in a package is downloaded unless it is in a cache.

    Raises InputError if the model is not a GGUF file, and UnreachableError if it cannot be fetched.
    """
    if settings.source == "packaged":
        path = gguf_of_package(settings.path)
    elif settings.in_directory:
        found = gguf_of(settings.path, settings.gguf_file)
        if found is None:
            raise InputError(f"model {settings.name} ({settings.path}) is stored as safetensors: {CONVERT}.")
        path = found
    elif settings.gguf_file:
        path = hub_gguf(settings)
    else:
        raise InputError(f"model {settings.name} ({settings.path}) is stored as safetensors: {CONVERT}.")
    local = replace(
        settings, source="local", path=str(path.parent), gguf_file=path.name, revision=None, dtype="float32"
    )
    return GgufSource(path, local)
