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
from pruning.models.handle import Model, check_name, wrapped
from pruning.models.placement import LanguageModel

Call = TypeVar("Call", bound=Callable[..., Any])


@dataclass(frozen=True)
class PrunableModel:
    """A causal language model with its tokenizer.

    `settings` says where the weights were loaded from; for a wrapped model, it is None.
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
        """The number of transformer blocks."""
        return self.language_model.info.n_blocks

    def check_mask(self, mask: Mask, what: str = "mask") -> None:
        """Raise InputError, which calls the mask `what`, if it is not a mask or is for another number of blocks."""
        check_type(what, mask, Mask)
        if mask.n_blocks != self.n_blocks:
            raise InputError(
                f"{what} is for {mask.n_blocks} blocks, and {self.name} has {self.n_blocks}: give a mask for this "
                "model."
            )

    @contextmanager
    def masked(self, mask: Mask) -> Iterator[Any]:
        """A context in which `module` runs without the dropped blocks; yields `module`.

        The key-value cache is off in this context, so `generate` works but is slow. To generate fast, export the
        model. Raises InputError if another call uses the model; within the context, no other call can use it. If a
        forward pass gets a cache, it raises InputError.
        """
        from pruning.models.sublayers import masked

        self.check_mask(mask)
        with used_by("masked", self.module, self.name), masked(self.module, mask):
            yield self.module

    @contextmanager
    def evaluated_by(self, call: str) -> Iterator[None]:
        """A context in which only `call` uses the model, in evaluation mode and in its own precision.

        Raises InputError as `used_by` does, or if the precision has changed since the model was loaded or wrapped.
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
    """Load a model. `name` is an option of `model`, a directory, a GGUF file, or a name on the hub.

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
    """A model with its own weights and tokenizer: changes to it do not affect models that are loaded later."""
    model.check()
    return PrunableModel(model.load_anew(), copy.deepcopy(model.tokenizer), model)


def wrap_model(module: Any, tokenizer: Any, name: str = "model") -> PrunableModel:
    """Use a transformers model and its tokenizer from memory. The model is put into evaluation mode.

    Raises UnskippableError if the model's blocks cannot be removed one by one. Raises InputError if another call uses
    the model, if `module` is not a transformers model with readable weights, or if `tokenizer` is not a tokenizer.
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
        if any(p.is_meta for p in part.parameters(recurse=False)):
            raise InputError(
                f"module has no weights in {inner or type(part).__name__}: they are on the device 'meta'. Load the "
                "model with from_pretrained, whole and in memory."
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


# Let only one call use a model at a time, because a call can replace the model's methods while it runs.

_in_use: WeakKeyDictionary[Any, str] = WeakKeyDictionary()  # the call that uses each transformers model
_guard = Lock()


@contextmanager
def used_by(call: str, module: Any, name: str) -> Iterator[None]:
    """A context in which only `call` uses the transformers model `module`.

    If another call uses the model, in this or another thread, raises InputError at once. If both ran, each would
    replace methods of its blocks and compute with the other's, and the model would not be restored.
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
    """Wrap a function of a model, so that it checks the types of its arguments by its annotations.

    While the function runs, no other call can use the model, and the model is in evaluation mode.
    """
    signature = inspect.signature(call)

    @wraps(call)
    def alone(model: PrunableModel, *args: Any, **settings: Any) -> Any:
        hints, open_ended = typing.get_type_hints(call), "settings" in signature.parameters
        for name in settings if not open_ended else ():
            if name not in hints:
                raise unknown(f"setting of {call.__name__}", name, signature.parameters)
        for name, value in signature.bind(model, *args, **settings).arguments.items():
            if name != "settings":  # the call itself checks its settings
                check_type(name, value, hints[name])
        with model.evaluated_by(call.__name__):
            return call(model, *args, **settings)

    return cast(Call, alone)
