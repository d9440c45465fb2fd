"""Models for the Python interface: loaded by name, or wrapped if they are already in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.core.threads import let_threads_wait
from pruning.models import loader, preflight
from pruning.models.loader import LanguageModel
from pruning.models.spec import Model


@dataclass(frozen=True)
class PrunableModel:
    """A causal language model with its tokenizer.

    `settings` say where the weights were loaded from; `settings` is None for a wrapped model.
    """

    language_model: LanguageModel
    tokenizer: Any
    settings: Model | None = None

    @property
    def module(self) -> Any:
        """The transformers model itself."""
        return self.language_model.module

    @property
    def name(self) -> str:
        """The name of the model in results and exports."""
        return self.language_model.info.name

    @property
    def n_blocks(self) -> int:
        """Number of transformer blocks."""
        return self.language_model.info.n_blocks

    def check_mask(self, mask: Mask, what: str = "the mask") -> None:
        """Raise InputError if a mask is none, or for another number of blocks."""
        if not isinstance(mask, Mask):
            raise InputError(
                f"{what} is {mask!r}: give a mask, such as pruning.Mask({self.n_blocks}, (2, 3))."
            )
        if mask.n_blocks != self.n_blocks:
            raise InputError(f"{what} is for {mask.n_blocks} blocks, and {self.name} has {self.n_blocks}.")

    @contextmanager
    def masked(self, mask: Mask) -> Iterator[Any]:
        """Within this context, `module` runs without the dropped blocks; yields `module`.

        The key-value cache is off in this context, so `generate` works but is slow. To generate fast, export the
        model.
        """
        from pruning.models.units import masked

        self.check_mask(mask)
        with masked(self.module, mask):
            yield self.module

    def __repr__(self) -> str:
        info = self.language_model.info
        return f"PrunableModel({self.name!r}, {self.n_blocks} blocks, {info.parameters:,} parameters, {info.dtype})"


def load_model(name: str | Path, **settings: Any) -> PrunableModel:
    """Load a model by its name in `conf/model`, from a directory or a GGUF file, or from the hub.

    `settings` are those of `model` on the command line, such as `dtype="float32"` or `revision="..."`.
    Raises InputError if there is no such model, UnreachableError if the hub cannot be reached, and UnskippableError
    if the model's blocks cannot be removed one by one.
    """
    let_threads_wait()
    from pruning.engine.device import exact

    exact()
    chosen = _settings(str(name), settings)
    preflight.check_model(chosen)
    return PrunableModel(loader.load_uncached(chosen), loader.tokenizer(chosen), chosen)


def wrap_model(module: Any, tokenizer: Any, name: str = "model") -> PrunableModel:
    """Use a transformers model and its tokenizer from memory. The model is put into evaluation mode.

    Raises UnskippableError if the model's blocks cannot be removed one by one.
    """
    from pruning.engine.device import exact

    exact()
    return PrunableModel(loader.wrapped(module, name), tokenizer)


def _settings(name: str, settings: dict[str, Any]) -> Model:
    """Model settings for a name: an option of `conf/model`, a directory, or a model on the hub."""
    from pruning.config.groups import options
    from pruning.hydra_app.build_option import build_option

    known = [field.name for field in dataclasses.fields(Model)]
    for key in settings:
        if key not in known:
            raise InputError(f"{key} is no setting of a model: choose from {', '.join(known)}.")
    if name in options("model") and name != "local":
        model: Model = build_option("model", [f"model={name}"])
    elif Path(name).expanduser().is_dir() or name.lower().endswith(".gguf"):
        model = Model(name="", source="local", path=name)  # named after the directory
    elif "/" in name and not name.startswith((".", "/", "~")):
        model = Model(name=name.rpartition("/")[2], source="hub", path=name)
    else:
        raise InputError(
            f"there is no model '{name}': give a directory, a name on the hub (OWNER/NAME), or one of "
            f"{', '.join(one for one in options('model') if one != 'local')}."
        )
    return dataclasses.replace(model, **settings)
