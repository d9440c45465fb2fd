"""Models for the Python interface, loaded by name or wrapped from memory, and checks of arguments."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import os
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from numbers import Integral, Real
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

from pruning.calibration.item_files import check_encodable
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
        """Raise InputError unless `mask` is a mask for this number of blocks. Errors call it `what`."""
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
        model. Raises InputError if another call uses the model; within the context, no other call can use it.
        A forward pass that is given a cache raises InputError.
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


def _named_once(load: Call) -> Call:
    """Wrap `load_model`, so that `name=` beside the model raises InputError, which says what `name` is."""

    @wraps(load)
    def loading(*given: Any, **settings: Any) -> Any:
        if given and "name" in settings:
            raise InputError(
                f"name={shown(settings['name'])} is given besides {shown(given[0])}, and `name` is the model to "
                "load, the first argument: give only one. To choose the name in results, wrap the loaded model: "
                "pruning.wrap_model(model.module, model.tokenizer, name=...)."
            )
        return load(*given, **settings)

    return cast(Call, loading)


@_named_once
def load_model(name: str | Path, **settings: Any) -> PrunableModel:
    """Load a model. `name` is a directory, a GGUF file, a name on the hub, or an option of the group `model`.

    `settings` are those of the group `model` on the command line, such as `dtype="float32"` or `revision="..."`.
    Raises InputError if there is no such model, UnreachableError if the hub cannot be reached, and UnskippableError
    if the model's blocks cannot be removed one by one.
    """
    let_threads_wait()
    from pruning.config.app import build_option
    from pruning.config.words import model_words
    from pruning.engine.devices import exact, survive_fork

    path_of("name", name)
    check_settings(Model, settings, "setting of a model")
    survive_fork()
    exact()
    model: Model = build_option("model", model_words(str(name)))
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

    Raises InputError at once if another call uses the model, in this or another thread. Two calls at once
    would replace each other's block methods, and the model's own methods would not be restored.
    """
    from pruning.engine.devices import survive_fork

    survive_fork()
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
    """Wrap a function of a model, so that the function's arguments are checked against their annotations.

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


# Check arguments before anything is computed: their types, texts and paths.

NUMBERS: dict[Any, Any] = {int: Integral, float: Real}  # a numpy number is a number; True is not
# How an error describes a value of a type.
WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "True or False",
    "NoneType": "None",
    "PrunableModel": "what pruning.load_model or pruning.wrap_model returns",
    "Mask": "a mask, such as pruning.Mask(24, (2, 3))",
}


def check_type(name: str, value: Any, wanted: Any) -> None:
    """Raise InputError if a value is not of the type `wanted`: a class, a list, or a union.

    If `wanted` is any other type, such as a mapping, nothing is checked.
    """
    if typing.get_origin(wanted) is list:
        if not isinstance(value, list | tuple):
            raise InputError(f"{name}={shown(value)} has the wrong type: give a list.")
        for number, one in enumerate(value):
            check_type(f"{name}[{number}]", one, typing.get_args(wanted)[0])
        return
    union = isinstance(wanted, types.UnionType) or typing.get_origin(wanted) is typing.Union
    choices = typing.get_args(wanted) if union else (wanted,)
    if Any in choices or not all(isinstance(choice, type) for choice in choices):
        return
    for choice in choices:
        if isinstance(value, NUMBERS.get(choice, choice)) and (choice is bool or not isinstance(value, bool)):
            return
    words = [WORDS.get(choice.__name__, f"a {choice.__name__}") for choice in choices]
    raise InputError(f"{name}={shown(value)} has the wrong type: give {' or '.join(words)}.")


def check_settings(kind: type[Any], settings: Mapping[str, Any], what: str) -> None:
    """Raise InputError if the dataclass `kind` has no field for a setting, or if a value has a wrong type.

    Error messages call such a setting `what`.
    """
    hints, known = typing.get_type_hints(kind), [field.name for field in dataclasses.fields(kind)]
    for name, value in settings.items():
        if name not in known:
            raise unknown(what, name, known)
        check_type(name, value, hints[name])


def listed(values: Any, name: str, what: str) -> list[Any]:
    """The values as a list. Raises InputError if `values` is one string, a mapping, or not iterable."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        given = "one text" if isinstance(values, str) else shown(values)
        raise InputError(f"{name} is {given}: give a list of {what}, [...].")
    return list(values)


def list_of_texts(texts: Any, name: str) -> list[str]:
    """The texts as a list. Raises InputError if `texts` is one string, or if an entry is not Unicode text."""
    found = listed(texts, name, "texts (str)")
    for number, text in enumerate(found):
        check_text(text, f"{name}[{number}]")
    return found


def check_text(text: Any, name: str) -> None:
    """Raise InputError if `text` is not Unicode text."""
    if not isinstance(text, str):
        raise InputError(f"{name} is {shown(text)}: give text (str).")
    try:
        check_encodable(text, name)
    except ValueError as error:
        raise InputError(f"{error} Give other text.") from error


def path_of(name: str, value: str | Path) -> Path:
    """An argument as a path. Raises InputError if no file can have this path."""
    check_type(name, value, str | Path)
    try:
        if not str(value) or b"\0" in os.fsencode(value):
            raise ValueError("it is empty or holds a null byte")
        return Path(value).expanduser()
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{name}={shown(value)} is not a path ({error}): give another one.") from error
