"""The files of a model in a directory: which are read, whether they are whole, and the digest of what decides losses.

A directory is resolved once, into `ModelFiles`. No weights are read but for the digest, which is kept in the cache.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeAlias

from tqdm import tqdm

from pruning.core.errors import InputError, first_line
from pruning.core.storage import State, file_sha256, file_state, kept_sha256, text_sha256
from pruning.core.terminal import is_terminal
from pruning.core.units import MEBIBYTE, bytes_text
from pruning.models.gguf import check_header

log = logging.getLogger(__name__)

CONFIG = "config.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
GGUF = ".gguf"
# Endings of files that decide no loss: text for people, and weights in formats that are never read.
UNUSED = {".md", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".ot", ".pkl", GGUF}
TEXTS = ("LICENSE", "LICENCE", "NOTICE", "README", "USE_POLICY")  # without an ending; they decide no loss
TOKENIZERS, OTHER_WEIGHTS = "fast_tokenizer_files", "transformers_weights"
BLOCK_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
FEW = 1000  # blocks that are built within seconds, whatever the weights are

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model in a directory.

    `gguf` is the GGUF file that the model is read from, or None. `weights` has the safetensors file of each tensor
    that an index names; without an index, the only file, under the empty name. `shapes` has the shape of each tensor
    that transformers would read; it is empty if there are no safetensors.
    """

    folder: Path
    gguf: Path | None
    weights: Mapping[str, Path]
    shapes: Shapes

    @cached_property
    def digest(self) -> str:
        """The identity of the model: the SHA-256 of all bytes that decide its losses, in hex.

        For a GGUF file, that is the digest of this file. For any other model, it is a digest of the names and
        contents of the files in the directory, without hidden files and without files that are never read. Raises
        InputError if a file cannot be read.
        """
        digests = file_digests(list(self.states))
        if self.gguf is not None:
            return digests[self.gguf]
        lines = [f"{file.relative_to(self.folder).as_posix()}\0{digest}" for file, digest in digests.items()]
        return text_sha256("\n".join(lines))

    @cached_property
    def states(self) -> dict[Path, State]:
        """The files that decide the losses of the model, and what would change if one of them were written."""
        return {file: _state(file) for file in self.deciding}

    def check_unchanged(self) -> None:
        """Raise InputError if a file has changed since the digest was computed."""
        for file, state in self.states.items():
            if _state(file) != state:
                raise InputError(
                    f"{file} has changed since this command started: run the command again when the model's files "
                    "no longer change."
                )

    @cached_property
    def deciding(self) -> list[Path]:
        """The files that decide the losses of the model, sorted."""
        if self.gguf is not None:
            return [self.gguf]
        used = {
            file
            for file in self.folder.iterdir()
            if file.suffix.lower() not in UNUSED
            and not file.name.startswith((".", *TEXTS))
            and file.is_file()
        }
        _check_tokenizer_files(self.folder, {file.name for file in used})
        return sorted(used | {*self.weights.values()})  # an index can name any file

    @property
    def has_adapter(self) -> bool:
        """Whether the directory holds an adapter (LoRA)."""
        return (self.folder / ADAPTER_CONFIG).exists()


def find_files(path: str, gguf_file: str | None = None) -> ModelFiles:
    """The files of the model in a directory.

    Raises InputError unless the directory holds a configuration and complete weights that can be read: a GGUF file,
    or the safetensors files that an index names. Raises InputError if several GGUF files could be meant.
    """
    folder = _folder(path)
    weights = weight_files(folder)
    ggufs = sorted(
        file for file in folder.glob(f"*{GGUF}") if file.is_file() and not file.name.startswith(".")
    )
    stored = any(folder.glob("*.safetensors")) or bool(weights)
    if not stored and not ggufs:
        lost = [file.name for file in folder.glob(f"*{GGUF}") if file.is_symlink()]
        why = f"{lost[0]} is a link to a file that does not exist" if lost else "no weights there"
        raise InputError(f"model.path={path}: {why}; only .safetensors and .gguf files are read.")
    if not (folder / CONFIG).exists() and not ggufs:
        raise InputError(
            f"model.path={path}: no {CONFIG} there; give a directory that save_pretrained wrote."
        )
    _check_readable(folder, weights)
    shapes = _shapes_in(folder, weights)
    _check_config(folder, len(shapes))
    if gguf_file is None and (folder / CONFIG).exists() and stored:
        return ModelFiles(folder, None, weights, shapes)
    if gguf_file is None and len(ggufs) > 1:
        raise InputError(f"{folder} holds {len(ggufs)} GGUF files: choose one, e.g. model.path={ggufs[0]}.")
    file = folder / (ggufs[0].name if gguf_file is None else gguf_file)
    if not file.is_file():
        raise InputError(f"model.gguf_file={gguf_file}: there is no such file in {folder}.")
    check_header(file)
    return ModelFiles(folder, file, weights, shapes)


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
    if folder.is_file():
        raise InputError(
            f"model.path={path} is a file: give the directory that holds it, or a file that ends in .gguf."
        )
    if not folder.is_dir():
        raise InputError(f"model.path={path}: there is no such directory.")
    return folder


def in_gguf(file: Path) -> tuple[str, dict[str, Any]]:
    """The arguments for `from_pretrained` that read a GGUF file.

    The file's path is absolute: transformers looks for a relative `gguf_file` in the current folder first, so another
    file of that name there would be read instead. The folder is empty: it would read a tokenizer or settings that are
    beside the file before those in the file, and the digest is of the file alone.
    """
    return _empty_folder().name, {"gguf_file": str(file.absolute())}


@lru_cache(maxsize=1)
def _empty_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="depth-pruning-")


# What is refused: files that cannot be read, a configuration that asks for what the digest does not cover.


def _check_tokenizer_files(folder: Path, used: Set[str]) -> None:
    """Raise InputError if `tokenizer_config.json` names a tokenizer that is not among the files of the digest."""
    try:
        named = json.loads((folder / "tokenizer_config.json").read_bytes()).get(TOKENIZERS, [])
    except (OSError, ValueError, AttributeError):  # whoever needs the file says so
        return
    if other := [name for name in (named if isinstance(named, list) else [named]) if name not in used]:
        raise InputError(
            f"{folder / 'tokenizer_config.json'} has {TOKENIZERS}={named!r}, and {other[0]!r} is not the name of a "
            "file of the model: remove the entry, and name the tokenizer tokenizer.json."
        )


def _check_readable(folder: Path, weights: Mapping[str, Path]) -> None:
    files = [path for path in folder.iterdir() if not path.name.startswith(".")]
    # An index can also name hidden files, and files in folders.
    for file in sorted({*files, *weights.values()}):
        if file.is_symlink() and not file.exists():
            if file.suffix.lower() == GGUF:  # another of the folder's models: this one may be whole
                continue
            raise InputError(f"{file} is a link to a file that does not exist: fetch the model again.")
        if file.is_file() and not os.access(file, os.R_OK):
            raise InputError(f"{file} cannot be read (permission denied): make it readable for this user.")


def _check_config(folder: Path, tensors: int) -> None:
    """Raise InputError if config.json asks for more blocks than the weights can fill, which would all be built.

    Weights of another name, which transformers would read if `transformers_weights` names them, are refused, too: the
    model's digest does not cover them.
    """
    try:
        config = _json_object((folder / CONFIG).read_bytes(), folder / CONFIG)
    except (OSError, InputError):  # whoever needs the file says so
        return
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        if part.get(OTHER_WEIGHTS) is not None:
            raise InputError(
                f"{folder / CONFIG} has {OTHER_WEIGHTS}={part[OTHER_WEIGHTS]!r}: only {SINGLE}, or the files that "
                f"{INDEX} names, are read. Give the weights this name, and remove the entry."
            )
        for name in BLOCK_COUNTS:
            if isinstance(count := part.get(name), int) and count > max(tensors, FEW):
                raise InputError(
                    f"{folder / CONFIG} asks for {name}={count:,}, and the weights are {tensors} tensors: use the "
                    "configuration and the weights of one model."
                )


# The index and the headers of safetensors files.
#
# The header of a safetensors file gives the type, the shape and the place of each tensor. So it says how many bytes
# the file must have.


def weight_files(folder: Path) -> dict[str, Path]:
    """The file of each tensor that the index names; without an index, the only file, under the empty name.

    Raises InputError if the index is damaged, or if a file that it names is missing.
    """
    if (folder / SINGLE).is_file():  # transformers prefers it to an index
        return {"": folder / SINGLE}
    if not (folder / INDEX).is_file():
        return {}
    where = _json_object((folder / INDEX).read_bytes(), folder / INDEX).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(name, str) for name in where.values()):
        raise InputError(f"{folder / INDEX} holds no `weight_map`: fetch the model again.")
    if outside := [name for name in where.values() if Path(name).is_absolute() or ".." in Path(name).parts]:
        raise InputError(f"{folder / INDEX} names the file {outside[0]}, which is not in the folder.")
    if lacking := sorted({name for name in where.values() if not (folder / name).is_file()}):
        count = f"{len(lacking)} of {len(set(where.values()))} weight files are missing"
        raise InputError(f"model.path={folder}: {count}, for example {lacking[0]}: fetch the model again.")
    return {name: folder / file for name, file in where.items()}


def _shapes_in(folder: Path, weights: Mapping[str, Path]) -> Shapes:
    """The shape of each tensor in some safetensors files. Raises InputError if one is truncated or lacks a tensor."""
    headers = {file: _header(file) for file in dict.fromkeys(weights.values())}
    if lacking := sorted(name for name, file in weights.items() if name and name not in headers[file]):
        raise InputError(
            f"{folder / INDEX} says that {weights[lacking[0]].name} holds {lacking[0]}, which is not there "
            f"({len(lacking)} such tensors): fetch the model again."
        )
    return {name: shape for header in headers.values() for name, shape in header.items()}


def _header(file: Path) -> Shapes:
    """The shape of each tensor of a safetensors file. Raises InputError if the file is damaged or truncated."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as stream:
            return {name: tuple(stream.get_slice(name).get_shape()) for name in stream.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{file} is truncated or damaged ({first_line(error)}): fetch or copy it again."
        ) from error


def _json_object(text: bytes, file: Path) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise InputError(f"{file} is damaged ({first_line(error)}): fetch it again.") from error
    if not isinstance(data, dict):
        raise InputError(f"{file} is damaged (it holds no JSON object): fetch it again.")
    return data


LARGE = (
    1024 * MEBIBYTE
)  # from this size on, reading weights for their digests is announced and shown by a bar


def file_digests(paths: Sequence[Path]) -> dict[Path, str]:
    """The SHA-256 of each file, in hex. Raises InputError if a file cannot be read, or changes while it is read."""
    files = {path: path.resolve() for path in paths}
    states = {file: _state(file) for file in files.values()}
    total = sum(state[0] for file, state in states.items() if kept_sha256(file, state) is None)
    shown: dict[str, Any] = {"disable": True}
    if total >= LARGE:
        log.info("reading %s of weights once, to identify the model", bytes_text(total))
        if sys.stderr is not None:  # a log file gets a new line every 20 seconds at most
            shown = {"mininterval": 0.2 if is_terminal(sys.stderr) else 20.0}
    digests = {}
    with tqdm(desc="weights", total=total, unit="B", unit_scale=True, unit_divisor=1024, **shown) as bar:
        for path, file in files.items():
            try:
                digests[path] = file_sha256(file, bar.update)
            except OSError as error:
                raise _unreadable(file, error) from error
            if _state(file) != states[file]:
                raise InputError(
                    f"{file} changed while it was read: run the command again when the file is complete."
                )
    return digests


def _state(file: Path) -> State:
    try:
        return file_state(file)
    except OSError as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: OSError) -> InputError:
    return InputError(
        f"{file} cannot be read ({error.strerror}): correct the path or the file's permissions."
    )
