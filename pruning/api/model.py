"""Models for the Python interface: loaded by name, or wrapped if they are already in memory."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from threading import Lock
from typing import Any, cast
from weakref import WeakKeyDictionary

from pruning.api.arguments import Call, check_settings, check_type, checked, path_of
from pruning.core.errors import InputError, shown
from pruning.core.mask import Mask
from pruning.core.threads import let_threads_wait
from pruning.models import loader, preflight
from pruning.models.loader import LanguageModel
from pruning.models.spec import Model, check_name

# The call that uses each transformers model at this moment. While a model is used, its methods can be replaced.
_in_use: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
_guard = Lock()


@contextmanager
def used_by(call: str, module: Any, name: str) -> Iterator[None]:
    """Within this context, only `call` uses a transformers model.

    Raises InputError at once if another call uses it, in this thread or in another one: both would replace methods of
    its blocks, each would compute with the other's, and the model would not be restored.
    """
    with _guard:
        if (other := _in_use.get(module)) is not None:
            raise InputError(
                f"{call} cannot use model '{name}' while {other} uses it: wait until {other} has ended, or leave its "
                "`with` block. To use a model in several threads, give each thread a copy of its own "
                "(pruning.wrap_model(copy.deepcopy(model.module), model.tokenizer))."
            )
        _in_use[module] = call
    try:
        yield
    finally:
        with _guard:
            del _in_use[module]


def exclusive(call: Call) -> Call:
    """The same function of a model, with its arguments checked.

    Meanwhile no other call can use the model, and the model is in evaluation mode.
    """
    plain = checked(call)

    @wraps(call)
    def alone(model: PrunableModel, *args: Any, **settings: Any) -> Any:
        check_model(model)
        with model.evaluated_by(call.__name__):
            return plain(model, *args, **settings)

    return cast(Call, alone)


def check_model(model: Any) -> None:
    """Raise InputError if `model` is none that `load_model` or `wrap_model` has returned."""
    if not isinstance(model, PrunableModel):
        raise InputError(
            f"model is {shown(model)}: give what pruning.load_model or pruning.wrap_model returns."
        )


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
                f"{what} is {shown(mask)}: give a mask, such as pruning.Mask({self.n_blocks}, (2, 3))."
            )
        if mask.n_blocks != self.n_blocks:
            raise InputError(f"{what} is for {mask.n_blocks} blocks, and {self.name} has {self.n_blocks}.")

    @contextmanager
    def masked(self, mask: Mask) -> Iterator[Any]:
        """Within this context, `module` runs without the dropped blocks; yields `module`.

        The key-value cache is off in this context, so `generate` works but is slow. To generate fast, export the
        model. Raises InputError if another call uses the model, and lets no other call use it. A forward pass that is
        given a cache raises InputError too.
        """
        from pruning.models.units import masked

        self.check_mask(mask)
        with used_by("masked", self.module, self.name), masked(self.module, mask):
            yield self.module

    @contextmanager
    def evaluated_by(self, call: str) -> Iterator[None]:
        """Within this context, only `call` uses the model, in evaluation mode and in its own precision.

        Raises InputError as `used_by` does, or if the precision has changed since the model was given.
        """
        import torch

        from pruning.models.block_probe import evaluating

        info, now = self.language_model.info, str(self.module.dtype).removeprefix("torch.")
        if now != info.dtype:
            raise InputError(
                f"model '{self.name}' is in {now} now and was in {info.dtype} before: load it with dtype='{now}', or "
                "wrap the module again (pruning.wrap_model)."
            )
        plain = torch.autocast(self.language_model.device.type, enabled=False)
        with used_by(call, self.module, self.name), evaluating(self.module), plain:
            yield

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

    path_of("name", name)
    check_settings(Model, settings, "setting of a model")
    exact()
    chosen = _settings(str(name), settings)
    preflight.check_model(chosen)
    tokenizer = copy.deepcopy(
        loader.tokenizer(chosen)
    )  # a change to it must not reach models that are loaded later
    return PrunableModel(loader.load_uncached(chosen), tokenizer, chosen)


def wrap_model(module: Any, tokenizer: Any, name: str = "model") -> PrunableModel:
    """Use a transformers model and its tokenizer from memory. The model is put into evaluation mode.

    Raises UnskippableError if the model's blocks cannot be removed one by one, and InputError if another call uses
    the model.
    """
    from pruning.engine.device import exact

    _check_parts(module, tokenizer)
    check_type("name", name, str)
    check_name("name", name)
    exact()
    with used_by("wrap_model", module, name):
        return PrunableModel(loader.wrapped(module, name), tokenizer)


def _check_parts(module: Any, tokenizer: Any) -> None:
    """Raise InputError unless these are a model of transformers whose weights can be read, and its tokenizer."""
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    parts = ("config", "get_input_embeddings")
    if not isinstance(module, nn.Module) or not all(hasattr(module, part) for part in parts):
        raise InputError(
            f"module is {shown(module)}: give a causal language model of transformers, such as "
            "AutoModelForCausalLM.from_pretrained returns."
        )
    for name, part in module.named_modules():
        # accelerate reads the weights of a module with this attribute from a disk when the module runs.
        if not hasattr(part, "_hf_hook") and any(p.is_meta for p in part.parameters(recurse=False)):
            raise InputError(
                f"module has no weights in {name or type(part).__name__}: they are on the device 'meta'. Load the "
                "model with from_pretrained."
            )
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise InputError(
            f"tokenizer is {shown(tokenizer)}: give the model's tokenizer, such as AutoTokenizer.from_pretrained "
            "returns."
        )


def _settings(name: str, settings: dict[str, Any]) -> Model:
    """Model settings for a name: an option of `conf/model`, a directory, or a model on the hub."""
    from pruning.config.groups import options
    from pruning.hydra_app.build_option import build_option

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
