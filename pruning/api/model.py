"""Models for the Python interface: loaded by name, or wrapped if they are already in memory."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

from pruning.api.arguments import check_settings, check_type, path_of
from pruning.core.errors import InputError, shown, unknown
from pruning.core.mask import Mask
from pruning.core.terminal import let_threads_wait
from pruning.models import preflight
from pruning.models.handle import Model, check_name, wrapped
from pruning.models.placement import LanguageModel

Call = TypeVar("Call", bound=Callable[..., Any])


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

    def check_mask(self, mask: Mask, what: str = "mask") -> None:
        """Raise InputError if a mask is none, or for another number of blocks."""
        check_type(what, mask, Mask)
        if mask.n_blocks != self.n_blocks:
            raise InputError(
                f"{what} is for {mask.n_blocks} blocks, and {self.name} has {self.n_blocks}: give a mask for this "
                "model."
            )

    @contextmanager
    def masked(self, mask: Mask) -> Iterator[Any]:
        """Within this context, `module` runs without the dropped blocks; yields `module`.

        The key-value cache is off in this context, so `generate` works but is slow. To generate fast, export the
        model. Raises InputError if another call uses the model, and lets no other call use it. A forward pass that is
        given a cache raises InputError too.
        """
        from pruning.models.sublayers import masked

        self.check_mask(mask)
        with used_by("masked", self.module, self.name), masked(self.module, mask):
            yield self.module

    @contextmanager
    def evaluated_by(self, call: str) -> Iterator[None]:
        """Within this context, only `call` uses the model, in evaluation mode and in its own precision.

        Raises InputError as `used_by` does, or if the precision has changed since the model was given.
        """
        import torch

        from pruning.models.blocks import evaluating

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
    from pruning.config.app import build_option
    from pruning.config.groups import options
    from pruning.engine.devices import exact

    place, known = path_of("name", name), [option for option in options("model") if option != "local"]
    check_settings(Model, settings, "setting of a model")
    exact()
    name = str(name)
    if name in known:
        model: Model = build_option("model", [f"model={name}"])
    elif place.is_dir() or name.lower().endswith(".gguf"):
        model = Model(name="", source="local", path=name)  # named after the directory
    elif "/" in name and not name.startswith((".", "/", "~")):
        model = Model(name=name.rpartition("/")[2], source="hub", path=name)
    else:
        raise InputError(
            f"there is no model '{name}': give a directory, a name on the hub (OWNER/NAME), or one of "
            f"{', '.join(known)}."
        )
    return loaded(dataclasses.replace(model, **settings))


def loaded(model: Model) -> PrunableModel:
    """A model with weights and a tokenizer of its own, whose changes reach no model that is loaded later."""
    preflight.check_model(model)
    return PrunableModel(model.load_anew(), copy.deepcopy(model.tokenizer), model)


def wrap_model(module: Any, tokenizer: Any, name: str = "model") -> PrunableModel:
    """Use a transformers model and its tokenizer from memory. The model is put into evaluation mode.

    Raises UnskippableError if the model's blocks cannot be removed one by one, and InputError if another call uses
    the model, or if these are no model of transformers whose weights can be read, and its tokenizer.
    """
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from pruning.engine.devices import exact

    parts = ("config", "get_input_embeddings")
    if not isinstance(module, nn.Module) or not all(hasattr(module, part) for part in parts):
        raise InputError(
            f"module is {shown(module)}: give a causal language model of transformers, such as "
            "AutoModelForCausalLM.from_pretrained returns."
        )
    for inner, part in module.named_modules():
        # accelerate reads the weights of a module with this attribute from a disk when the module runs.
        if not hasattr(part, "_hf_hook") and any(p.is_meta for p in part.parameters(recurse=False)):
            raise InputError(
                f"module has no weights in {inner or type(part).__name__}: they are on the device 'meta'. Load the "
                "model with from_pretrained."
            )
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise InputError(
            f"tokenizer is {shown(tokenizer)}: give the model's tokenizer, such as AutoTokenizer.from_pretrained "
            "returns."
        )
    check_type("name", name, str)
    check_name("name", name)
    exact()
    with used_by("wrap_model", module, name):
        return PrunableModel(wrapped(module, name), tokenizer)


# Let only one call use a model at a time. While a model is used, its methods can be replaced.

_in_use: WeakKeyDictionary[Any, str] = WeakKeyDictionary()  # the call that uses each transformers model
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
    """The same function of a model, which checks the types of its arguments by its annotations.

    Meanwhile no other call can use the model, and the model is in evaluation mode.
    """
    signature = inspect.signature(call)

    @wraps(call)
    def alone(model: PrunableModel, *args: Any, **settings: Any) -> Any:
        hints, open_ended = typing.get_type_hints(call), "settings" in signature.parameters
        for name in settings if not open_ended else ():
            if name not in hints:
                raise unknown(f"setting of {call.__name__}", name, signature.parameters)
        for name, value in signature.bind(model, *args, **settings).arguments.items():
            if name != "settings":  # those that the call itself checks
                check_type(name, value, hints[name])
        with model.evaluated_by(call.__name__):
            return call(model, *args, **settings)

    return cast(Call, alone)
