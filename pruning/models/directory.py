"""Check a local model directory, and compute its digest."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pruning.core.errors import InputError
from pruning.models.weight_files import check_files

FINGERPRINTED = 1 << 20  # bytes read at each end of a file


def fingerprint(path: str) -> str:
    """A digest of a model directory: names, sizes and both ends of all files that are not hidden.

    Raises InputError if the directory holds no model. Only the ends of files are read, since reading 16 GB to
    name a cell would take longer than running some cells. The ends of a weight file hold its table of tensors and
    its last values.
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
    folder = Path(path).expanduser().resolve()
    if not folder.is_dir():
        raise InputError(f"model.path={path}: there is no such directory.")
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.gguf")):
        raise InputError(f"model.path={path}: no weights there; only .safetensors and .gguf files are read.")
    if not (folder / "config.json").exists() and not any(folder.glob("*.gguf")):
        raise InputError(
            f"model.path={path}: no config.json there; give a directory that save_pretrained wrote."
        )
    check_files(folder)
    return folder


def only_gguf(folder: Path) -> str:
    """The GGUF file of a directory. Raises InputError if there are several."""
    files = sorted(path.name for path in folder.glob("*.gguf"))
    if len(files) > 1:
        raise InputError(
            f"{folder} holds {len(files)} GGUF files: choose one, e.g. model.gguf_file={files[0]}."
        )
    return files[0]
