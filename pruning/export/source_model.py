"""Where the files of the model lie that is to be cut: configuration, weights, and what is copied beside them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pruning.core.errors import InputError, UnreachableError, first_line
from pruning.models import checkpoint, loader, quiet, spec

WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
# What a user of the weights needs beside them; licences go with what they cover.
BESIDE = (
    "tokenizer*",
    "*.model",
    "*.tiktoken",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "*processor_config.json",
    "generation_config.json",
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY*",
)


@dataclass(frozen=True)
class SourceModel:
    """A model to cut; its settings name the commit where it comes from a hub.

    `folder` holds its safetensors files; None where transformers alone can read the weights (GGUF).
    """

    settings: spec.Model
    config: Any
    folder: Path | None

    def beside(self) -> Iterator[Path]:
        """The files that are copied as they are."""
        if self.folder is not None:
            for pattern in BESIDE:
                yield from (path for path in sorted(self.folder.glob(pattern)) if path.is_file())

    def copy_beside(self, target: Path, model: Any) -> None:
        """Tokenizer, generation configuration and licences; `model` is the loaded one where there is no folder."""
        for path in self.beside():
            shutil.copyfile(path, target / path.name)
        if self.folder is None:
            loader.tokenizer(self.settings).save_pretrained(target)
            model.generation_config.save_pretrained(target)


def find_source(settings: spec.Model) -> SourceModel:
    """Find, and for a hub model fetch, the files. No weights are read.

    Raises InputError or UnreachableError in one sentence.
    """
    from transformers import AutoConfig

    where, options = checkpoint.locate(settings)
    config = checkpoint.from_pretrained(AutoConfig, settings, where, options)
    if "gguf_file" in options:
        config.architectures = None  # set from the loaded model
        return SourceModel(settings, config, None)
    if getattr(config.get_text_config(decoder=True), "quantization_config", None) or hasattr(
        config, "quantization_config"
    ):
        raise InputError(
            f"model {settings.name} is stored quantised: blocks are cut out of full-precision checkpoints and of "
            "GGUF files; choose the one that it was made from."
        )
    if settings.source != "hub":
        return SourceModel(settings, config, Path(where))
    folder = _snapshot(settings)
    return SourceModel(
        replace(settings, revision=folder.name), config, folder
    )  # the folder is named by the commit


def _snapshot(settings: spec.Model) -> Path:
    """The files of a hub model, from the cache where they are there already."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        with quiet.quiet():
            patterns = [*WEIGHTS, *BESIDE, "config.json"]
            return Path(snapshot_download(settings.path, revision=settings.revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UnreachableError(
            f"model {settings.name} ({settings.path}) cannot be fetched ({first_line(error)}): if it is gated, "
            "accept its terms on the hub and log in with `hf auth login`; without a network, use model=local "
            "model.path=DIR."
        ) from error
