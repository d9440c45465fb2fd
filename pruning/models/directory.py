"""Check a local model directory or GGUF file, compute its digest, and read a GGUF file."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Set
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from pruning.core.errors import InputError
from pruning.core.gguf_header import check_header
from pruning.core.hashing import text_sha256
from pruning.models.file_digests import file_digests
from pruning.models.swap import swapped
from pruning.models.weight_files import check_files, weight_files

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
