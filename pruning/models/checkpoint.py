"""Locate the files of a model, identify them, and read them with transformers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning.core.errors import InputError, UnreachableError, first_line
from pruning.core.hub import use_hub
from pruning.models.directory import fingerprint, model_directory, only_gguf
from pruning.models.weight_files import INDEX, SINGLE

if TYPE_CHECKING:
    from pruning.models.spec import Model

LIBRARY_ERRORS = (
    "SafetensorError",
    "StrictDataclassFieldValidationError",
    "StrictDataclassClassValidationError",
)


def source(settings: Model) -> str:
    """The origin of the weights, as recorded in results: hub id, directory, or pinned package."""
    if settings.source == "packaged":
        from pruning.models.packaged import PACKAGED

        return PACKAGED[settings.path].requirement
    return str(model_directory(settings.path)) if settings.source == "local" else settings.path


def locate(settings: Model) -> tuple[str, dict[str, Any]]:
    """The arguments for `from_pretrained`: a name or path, and options."""
    options: dict[str, Any] = {"trust_remote_code": False}
    if settings.gguf_file:
        options["gguf_file"] = settings.gguf_file
    if settings.source == "packaged":
        from pruning.models.packaged import fetch

        return str(fetch(settings.path)), options
    if settings.source == "local":
        folder = model_directory(settings.path)
        if not settings.gguf_file and not (folder / "config.json").exists():
            options["gguf_file"] = only_gguf(folder)
        return str(folder), options
    use_hub()
    return settings.path, options | {"revision": settings.revision}


def stored_folder(settings: Model) -> Path | None:
    """The directory of a model's files; None for a hub model whose weights are not in the cache yet."""
    if (
        settings.source != "hub" or Path(settings.path).is_dir()
    ):  # transformers prefers a directory of that name
        return Path(locate(settings)[0])
    from huggingface_hub import try_to_load_from_cache

    for name in (SINGLE, INDEX):
        if isinstance(file := try_to_load_from_cache(settings.path, name, revision=settings.revision), str):
            return Path(file).parent
    return None


def revision(settings: Model, module: Any) -> str:
    """The commit of a hub model, the digest of a directory, or the digest of a packaged file."""
    if settings.source == "packaged":
        from pruning.models.packaged import PACKAGED

        return PACKAGED[settings.path].sha256
    if settings.source == "local":
        return fingerprint(settings.path)
    return str(getattr(module.config, "_commit_hash", None) or settings.revision or "main")


def from_pretrained(kind: Any, settings: Model, name_or_path: str, options: dict[str, Any]) -> Any:
    """Call `kind.from_pretrained`. Raises UnreachableError or InputError, with a short text, if the call fails."""
    try:
        return kind.from_pretrained(name_or_path, **options)
    except Exception as error:
        known = isinstance(error, (OSError, ValueError)) or type(error).__name__ in LIBRARY_ERRORS
        if not known:
            raise
        first = first_line(error)
        if settings.source == "hub":
            raise UnreachableError(
                f"model {settings.name} ({name_or_path}) cannot be loaded ({first}). If it is gated, accept its "
                "terms on the hub and log in with `hf auth login`. Without a network, use model=local model.path=DIR."
            ) from error
        raise InputError(f"model.path={settings.path} cannot be loaded ({first}).") from error
