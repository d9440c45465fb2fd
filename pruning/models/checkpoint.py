"""Locate the files of a model, identify them, and read them with transformers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning.core.errors import InputError, UnreachableError, first_line
from pruning.core.gguf_header import check_header
from pruning.core.hub import commit_of, use_hub
from pruning.models import adapter, quiet
from pruning.models.directory import gguf_of, in_gguf, model_digest, model_directory
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
    return str(settings.location) if settings.source == "local" else settings.path


def locate(settings: Model) -> tuple[str, dict[str, Any]]:
    """The arguments for `from_pretrained`: a name or path, and options.

    A GGUF file on a hub is downloaded unless it is in the cache. Raises InputError if the directory of a model holds
    no model, or an adapter that cannot be merged, and UnreachableError as `hub_gguf` does.
    """
    options: dict[str, Any] = {}
    if settings.source == "packaged":
        from pruning.models.packaged import fetch

        return str(fetch(settings.path)), options
    if settings.in_directory:
        folder, gguf = model_directory(settings.path), gguf_of(settings.path, settings.gguf_file)
        adapter.check_adapter(folder, gguf is not None)
        return (str(folder), options) if gguf is None else in_gguf(gguf, options)
    if settings.gguf_file:
        return in_gguf(hub_gguf(settings), options)
    use_hub()
    return settings.path, options | {"revision": settings.revision}


def hub_gguf(settings: Model) -> Path:
    """The GGUF file of a hub model in the cache, downloaded if needed. Raises UnreachableError if it cannot be."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    use_hub()
    assert settings.gguf_file is not None
    try:
        with quiet.quiet():
            file = Path(hf_hub_download(settings.path, settings.gguf_file, revision=settings.revision))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UnreachableError(
            f"{settings.gguf_file} of {settings.path} cannot be fetched ({first_line(error)}): download it, and give "
            "model=local model.path=FILE.gguf."
        ) from error
    check_header(file)
    return file


def locate_weights(settings: Model) -> tuple[str, dict[str, Any]]:
    """As `locate`, for the weights: if a directory holds an adapter, the directory of the merged model."""
    where, options = locate(settings)
    if settings.in_directory and adapter.has_adapter(folder := model_directory(settings.path)):
        return str(adapter.merged_folder(folder, model_digest(settings.path))), options
    return where, options


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


def revision(settings: Model) -> str:
    """The commit of a hub model that has been loaded, the digest of a directory, or the digest of a packaged file."""
    if settings.source == "packaged":
        from pruning.models.packaged import PACKAGED

        return PACKAGED[settings.path].sha256
    if settings.in_directory:
        return model_digest(settings.path, settings.gguf_file)
    commit = commit_of(settings.path, settings.revision, settings.gguf_file or "config.json")
    return commit or settings.revision or "main"


def state(settings: Model) -> str | None:
    """The digest of the files of a model in a directory, which can change while the program runs; else None."""
    return model_digest(settings.path, settings.gguf_file) if settings.in_directory else None


def from_pretrained(kind: Any, settings: Model, name_or_path: str, options: dict[str, Any]) -> Any:
    """Call `kind.from_pretrained`. Raises UnreachableError or InputError, with a short text, if the call fails."""
    try:
        return kind.from_pretrained(name_or_path, trust_remote_code=False, **options)
    except Exception as error:
        if "ignore_mismatched_sizes" in str(error):
            raise InputError(
                f"model {settings.name} ({name_or_path}): stored tensors have other shapes than config.json asks "
                "for: use the configuration and the weights of one model."
            ) from error
        if "backend tokenizer" in str(error):
            raise no_tokenizer(settings, name_or_path) from error
        known = isinstance(error, (OSError, ValueError)) or type(error).__name__ in LIBRARY_ERRORS
        if not known and "gguf_file" not in options:  # the reader of GGUF files checks nothing itself
            raise
        first = first_line(error)
        if settings.source == "hub":
            raise UnreachableError(
                f"model {settings.name} ({name_or_path}) cannot be loaded ({first}). If it is gated, accept its "
                "terms on the hub and log in with `hf auth login`. Without a network, use model=local model.path=DIR."
            ) from error
        raise InputError(f"model.path={settings.path} cannot be loaded ({first}).") from error


def no_tokenizer(settings: Model, name_or_path: str) -> InputError:
    """The error of a model without a tokenizer that can be read."""
    return InputError(
        f"model {settings.name} ({name_or_path}) has no tokenizer that transformers can read: add its "
        "tokenizer.json. A tokenizer.model alone is read only with the package sentencepiece."
    )
