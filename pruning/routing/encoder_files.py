"""The files of a hub encoder: loaded, identified, and checked before a search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pruning.core.errors import InputError, UnreachableError, first_line
from pruning.core.hub import commit_of, use_hub
from pruning.models.directory import model_digest
from pruning.models.weight_files import INDEX, SINGLE, weight_files
from pruning.routing.settings import RouterSettings


def check_encoder(settings: RouterSettings, n_blocks: int) -> None:
    """Check the encoder of a router for a model of `n_blocks` blocks; no weights are read.

    Raises InputError if the model has too few blocks or a directory holds no weights, and UnreachableError if the
    configuration or the tokenizer of a hub encoder cannot be loaded.
    """
    if settings.blocks is not None and settings.blocks > n_blocks:
        raise InputError(
            f"router.blocks={settings.blocks}: the model has {n_blocks} blocks, and every set drops some of them: "
            "choose fewer."
        )
    if settings.encoder != "hub":
        return
    for kind in ("AutoConfig", "AutoTokenizer"):
        load_part(kind, settings.path)
    if (folder := Path(settings.path).expanduser()).is_dir() and not weight_files(folder):
        raise InputError(
            f"router.path={settings.path} holds neither {SINGLE} nor {INDEX}: give a directory that save_pretrained "
            "wrote."
        )


def encoder_revision(path: str) -> str | None:
    """The digest of an encoder's directory, or its commit on the hub; no weights are loaded.

    Raises InputError or UnreachableError if the encoder cannot be read.
    """
    if Path(path).expanduser().is_dir():
        return model_digest(path)
    load_part("AutoConfig", path)
    return commit_of(path)


def load_part(kind: str, path: str, **options: Any) -> Any:
    """What a class of transformers, such as AutoTokenizer, loads. Raises UnreachableError if it cannot."""
    import transformers

    from pruning.models.quiet import quiet

    use_hub()
    folder = Path(path).expanduser()
    place = str(folder) if folder.is_dir() else path
    try:
        with quiet():
            return getattr(transformers, kind).from_pretrained(place, trust_remote_code=False, **options)
    except (OSError, ValueError) as error:
        raise UnreachableError(
            f"router.path={path} cannot be loaded ({first_line(error)}): check the name and the network, give a "
            "directory, or use router.encoder=states."
        ) from error
