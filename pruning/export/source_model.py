"""The files of the model that is to be cut: configuration, weights, and the files that are copied unchanged."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pruning.core import atomic_files
from pruning.core.errors import UnreachableError, first_line
from pruning.export.manifest import TEMPLATES
from pruning.models import checkpoint, loader, preflight, quiet, spec

GENERATION = "generation_config.json"
WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
# Files that a user of the weights needs too; licences are copied with the weights that they cover.
BESIDE = (
    "tokenizer*",
    "*.model",
    "*.tiktoken",
    "tekken.json",  # the tokenizer of Mistral's own tools
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    f"{TEMPLATES}/*.jinja",
    "*processor_config.json",
    GENERATION,
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY*",
)


@dataclass(frozen=True)
class SourceModel:
    """A model to cut. If it comes from a hub, its settings name the commit.

    `folder` holds its safetensors files; it is None if only transformers can read the weights (GGUF).
    """

    settings: spec.Model
    config: Any
    folder: Path | None

    def copy_beside(self, target: Path, model: Any) -> None:
        """Copy tokenizer, generation settings and licences; if there is no folder, licences are left out."""
        if self.folder is None:
            loader.tokenizer(self.settings).save_pretrained(target)
            model.generation_config.save_pretrained(target)
            return
        for path in _beside(self.folder):
            copy = target / path.relative_to(self.folder)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)
        if not (target / GENERATION).exists():
            _write_generation(self.folder, target)


def _beside(folder: Path) -> Iterator[Path]:
    """Yield the files of a model that are copied unchanged."""
    for pattern in BESIDE:
        yield from (path for path in sorted(folder.glob(pattern)) if path.is_file())


def _write_generation(folder: Path, target: Path) -> None:
    """Write the generation settings that transformers reads from config.json if the model has no file for them.

    They are read from the file, because a configuration that transformers has read or written does not hold them.
    """
    from transformers import GenerationConfig

    found = GenerationConfig.from_model_config(atomic_files.read_json(folder / "config.json"))
    # `save_pretrained` would refuse what loading accepts, such as a temperature without sampling.
    found.to_json_file(target / GENERATION)


def find_source(settings: spec.Model) -> SourceModel:
    """Find the files of a model; the files of a hub model are downloaded. No weights are read.

    Raises InputError if the model cannot be cut or its files are damaged, and UnreachableError if its files cannot be
    reached.
    """
    from transformers import AutoConfig

    preflight.check_model(settings)
    where, options = checkpoint.locate_weights(settings)
    config = checkpoint.from_pretrained(AutoConfig, settings, where, options)
    if "gguf_file" in options:
        config.architectures = None  # set later, from the loaded model
        return SourceModel(settings, config, None)
    if settings.source != "hub" or settings.in_directory:
        return SourceModel(settings, config, Path(where))
    folder = _snapshot(settings)
    return SourceModel(
        replace(settings, revision=folder.name), config, folder
    )  # the folder's name is the commit


def _snapshot(settings: spec.Model) -> Path:
    """The folder of a hub model's files, which are downloaded unless they are in the cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        with quiet.quiet():
            patterns = [*WEIGHTS, *BESIDE, "config.json"]
            return Path(snapshot_download(settings.path, revision=settings.revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UnreachableError(
            f"model {settings.name} ({settings.path}) cannot be fetched ({first_line(error)}). If it is gated, "
            "accept its terms on the hub and log in with `hf auth login`; without a network, use model=local "
            "model.path=DIR."
        ) from error
