"""Where the files of a model are, how they are known again, and how the library reads them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning.errors import InputError, UnreachableError, first_line

if TYPE_CHECKING:
    from pruning.models import Model

FINGERPRINTED = 1 << 20  # bytes read at each end of a weight file


def source(settings: Model) -> str:
    """Where the weights come from, for the record: hub id, directory, or pinned package."""
    if settings.source == "packaged":
        from pruning.packaged import PACKAGED

        return PACKAGED[settings.path].requirement
    return str(_directory(settings.path)) if settings.source == "local" else settings.path


def fingerprint(path: str) -> str:
    """A digest of a model directory: names and sizes of all files, both ends of each of them.

    Raises InputError where there is no model.
    Reading 16 GB to name a cell would take longer than some cells; the ends of a weight file hold its
    table of tensors and the last of its values.
    """
    digest = hashlib.sha256()
    for file in sorted(p for p in _directory(path).iterdir() if p.is_file() and not p.name.startswith(".")):
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(FINGERPRINTED))
            stream.seek(max(0, size - FINGERPRINTED))
            digest.update(stream.read(FINGERPRINTED))
    return digest.hexdigest()


def _directory(path: str) -> Path:
    folder = Path(path).expanduser().resolve()
    if not folder.is_dir():
        raise InputError(f"model.path={path}: there is no such directory.")
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.gguf")):
        raise InputError(f"model.path={path}: no weights there; only .safetensors and .gguf files are read.")
    if not (folder / "config.json").exists() and not any(folder.glob("*.gguf")):
        raise InputError(f"model.path={path}: no config.json there, so no model saved by save_pretrained.")
    return folder


def _only_gguf(folder: Path) -> str:
    """The GGUF file of a directory that holds nothing else to load."""
    files = sorted(path.name for path in folder.glob("*.gguf"))
    if len(files) > 1:
        raise InputError(f"{folder} holds {len(files)} GGUF files: choose one, model.gguf_file={files[0]}.")
    return files[0]


def locate(settings: Model) -> tuple[str, dict[str, Any]]:
    """What `from_pretrained` is to be called with: a name or path, and options."""
    options: dict[str, Any] = {"trust_remote_code": False}
    if settings.gguf_file:
        options["gguf_file"] = settings.gguf_file
    if settings.source == "packaged":
        from pruning.packaged import fetch

        return str(fetch(settings.path)), options
    if settings.source == "local":
        folder = _directory(settings.path)
        if not settings.gguf_file and not (folder / "config.json").exists():
            options["gguf_file"] = _only_gguf(folder)
        return str(folder), options
    return settings.path, options | {"revision": settings.revision}


def revision(settings: Model, module: Any) -> str:
    """The commit of a hub model, the digest of a directory, the digest of a packaged file."""
    if settings.source == "packaged":
        from pruning.packaged import PACKAGED

        return PACKAGED[settings.path].sha256
    if settings.source == "local":
        return fingerprint(settings.path)
    return str(getattr(module.config, "_commit_hash", None) or settings.revision or "main")


def from_pretrained(kind: Any, settings: Model, where: str, options: dict[str, Any]) -> Any:
    """Call `kind.from_pretrained`; raises UnreachableError or InputError in one sentence where that fails."""
    try:
        return kind.from_pretrained(where, **options)
    except Exception as error:
        if not isinstance(error, (OSError, ValueError)) and type(error).__name__ != "SafetensorError":
            raise
        first = first_line(error)
        if settings.source == "hub":
            raise UnreachableError(
                f"model {settings.name} ({where}) cannot be loaded ({first}): if it is gated, accept its terms "
                "on the hub and log in with `hf auth login`; without a network, use model=local model.path=DIR."
            ) from error
        raise InputError(f"model.path={settings.path} cannot be loaded ({first}).") from error


class quiet:  # noqa: N801 - reads as a verb where it is used
    """Silence transformers' progress bars and notes while weights are loaded."""

    def __enter__(self) -> None:
        from transformers.utils import logging as hf_logging

        self.level = hf_logging.get_verbosity()
        hf_logging.set_verbosity_error()
        hf_logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging as hf_logging

        hf_logging.set_verbosity(self.level)
        hf_logging.enable_progress_bar()
