"""The files of a model in a directory: which files are read, whether they are complete, and their digest.

`find_files` inspects a directory once. Weights are read only for the digest, which is cached.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from pruning.core.errors import InputError, first_line
from pruning.core.storage import file_sha256, kept_sha256, text_sha256
from pruning.core.terminal import progress_bar
from pruning.core.units import MEBIBYTE, bytes_text
from pruning.models.gguf import open_gguf

log = logging.getLogger(__name__)

CONFIG = "config.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
GGUF = ".gguf"
# Suffixes of files that do not affect losses: documentation, and weights in formats that are not used.
UNUSED = {".md", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".ot", ".pkl", GGUF}
TEXTS = ("LICENSE", "LICENCE", "NOTICE", "README", "USE_POLICY")  # name prefixes of documentation


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model in a directory.

    `gguf` is the GGUF file that the model is read from; None for safetensors. `weights` maps each tensor in
    the index to its safetensors file. If there is no index, the empty name maps to the only file.
    """

    folder: Path
    gguf: Path | None
    weights: Mapping[str, Path]

    @cached_property
    def digest(self) -> str:
        """The SHA-256, in hex, of all files that affect the model's losses; it identifies the model.

        If the model is a GGUF file, only this file counts. Otherwise, the names and contents of the directory's files
        count, except hidden files and files that are never read. Raises InputError if a file cannot be read.
        """
        if self.gguf is not None:
            return file_digests([self.gguf])[self.gguf]
        used = {
            file
            for file in self.folder.iterdir()
            if file.suffix.lower() not in UNUSED
            and not file.name.startswith((".", *TEXTS))
            and file.is_file()
        }
        digests = file_digests(sorted(used | {*self.weights.values()}))
        lines = [f"{file.relative_to(self.folder).as_posix()}\0{digest}" for file, digest in digests.items()]
        return text_sha256("\n".join(lines))


def find_files(path: str, gguf_file: str | None = None) -> ModelFiles:
    """The files of the model in a directory.

    Raises InputError unless the directory contains a GGUF file, or a configuration and complete safetensors
    weights. Raises InputError also if the choice between several GGUF files is ambiguous.
    """
    folder = _folder(path)
    weights = weight_files(folder)
    ggufs = sorted(
        file for file in folder.glob(f"*{GGUF}") if file.is_file() and not file.name.startswith(".")
    )
    described = (folder / CONFIG).exists()
    if not ggufs and not (weights and described):
        raise InputError(
            f"model.path={path}: no {CONFIG if weights else 'weights'} there. Give a directory that "
            f"save_pretrained wrote, with {CONFIG} and {SINGLE} or {INDEX}, or a {GGUF} file."
        )
    if gguf_file is None and described and weights:
        _check_whole(folder, weights)
        return ModelFiles(folder, None, weights)
    if gguf_file is None and len(ggufs) > 1:
        raise InputError(f"{folder} holds {len(ggufs)} GGUF files: choose one, e.g. model.path={ggufs[0]}.")
    file = folder / (ggufs[0].name if gguf_file is None else gguf_file)
    if not file.is_file():
        raise InputError(f"model.gguf_file={gguf_file}: there is no such file in {folder}.")
    open_gguf(file)
    return ModelFiles(folder, file, weights)


def _folder(path: str) -> Path:
    if not path:
        raise InputError("model.path is empty: give a directory or a GGUF file, model.path=PATH.")
    try:
        folder = Path(path).expanduser().resolve()
        folder.exists()  # raises an error for a name that no file can have
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"model.path={path!r} is not a path ({error}): give a directory or a GGUF file."
        ) from error
    if not folder.is_dir():
        raise InputError(f"model.path={path}: there is no such directory, nor a file that ends in .gguf.")
    return folder


def in_gguf(file: Path) -> tuple[str, dict[str, Any]]:
    """The arguments with which `from_pretrained` reads a GGUF file.

    The path is absolute, because transformers looks for relative paths in the current folder first. The folder
    argument is an empty folder: transformers would prefer a tokenizer or settings beside the file to those inside it.
    """
    return _empty_folder().name, {"gguf_file": str(file.absolute())}


@lru_cache(maxsize=1)
def _empty_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="depth-pruning-")


# The index and the headers of safetensors files.


def weight_files(folder: Path) -> dict[str, Path]:
    """Maps each tensor in the index to its file. If there is no index, the empty name maps to the only file.

    Raises InputError if the index is damaged, or names a file that is missing or outside the folder.
    """
    if (folder / SINGLE).is_file():  # transformers prefers it to an index
        return {"": folder / SINGLE}
    if not (folder / INDEX).is_file():
        return {}
    try:
        where = {
            name: str(file) for name, file in json.loads((folder / INDEX).read_bytes())["weight_map"].items()
        }
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / INDEX} is damaged ({first_line(error)}): fetch it again.") from error
    if outside := [name for name in where.values() if Path(name).is_absolute() or ".." in Path(name).parts]:
        raise InputError(f"{folder / INDEX} names the file {outside[0]}, which is not in the folder.")
    if lacking := sorted({name for name in where.values() if not (folder / name).is_file()}):
        count = f"{len(lacking)} of {len(set(where.values()))} weight files are missing"
        raise InputError(f"model.path={folder}: {count}, for example {lacking[0]}: fetch the model again.")
    return {name: folder / file for name, file in where.items()}


def _check_whole(folder: Path, weights: Mapping[str, Path]) -> None:
    """Raise InputError if a safetensors file is damaged, or lacks a tensor that it has according to the index."""
    from safetensors import SafetensorError, safe_open

    names: dict[Path, list[str]] = {}
    for name, file in weights.items():
        names.setdefault(file, []).append(name)
    for file, wanted in names.items():
        try:
            with safe_open(file, framework="np") as stream:
                held = {"", *stream.keys()}
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{file} is truncated or damaged ({first_line(error)}): fetch or copy it again."
            ) from error
        if lacking := sorted({*wanted} - held):
            raise InputError(
                f"{folder / INDEX} says that {file.name} holds {lacking[0]}, which is not there ({len(lacking)} "
                "such tensors): fetch the model again."
            )


# If at least this many bytes are read for digests, a log line and a progress bar are shown.
LARGE = 1024 * MEBIBYTE
BAR = "{percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]  {desc}"


def file_digests(paths: Sequence[Path]) -> dict[Path, str]:
    """The SHA-256 of each file, in hex. Raises InputError if a file cannot be read."""
    try:
        total = sum(path.stat().st_size for path in paths if kept_sha256(path) is None)
        if total >= LARGE:
            log.info("reading %s of weights once, to identify the model", bytes_text(total))
        with progress_bar("weights", BAR, total < LARGE, total=total, unit_scale=True) as bar:
            return {path: file_sha256(path, bar.update) for path in paths}
    except OSError as error:
        raise InputError(
            f"{error.filename} cannot be read ({error.strerror}): correct the path or the file's permissions."
        ) from error
