"""Models for the Python interface: loaded by name, or wrapped if they are already in memory."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import os
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from numbers import Integral, Real
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias, TypeVar, cast
from weakref import WeakKeyDictionary

from pruning.calibration.item_files import Item, check_encodable, checked_item, read_item
from pruning.calibration.items import ItemDraw
from pruning.calibration.samples import Samples
from pruning.calibration.text import WindowDraw
from pruning.core.errors import InputError, shown, unknown
from pruning.core.mask import Mask
from pruning.core.terminal import let_threads_wait
from pruning.models import preflight
from pruning.models.model import LanguageModel, Model, check_name, wrapped

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
    from pruning.engine.devices import exact

    path_of("name", name)
    check_settings(Model, settings, "setting of a model")
    exact()
    chosen = _settings(str(name), settings)
    preflight.check_model(chosen)
    tokenizer = copy.deepcopy(chosen.tokenizer)  # a change to it must not reach models that are loaded later
    return PrunableModel(chosen.load_anew(), tokenizer, chosen)


def wrap_model(module: Any, tokenizer: Any, name: str = "model") -> PrunableModel:
    """Use a transformers model and its tokenizer from memory. The model is put into evaluation mode.

    Raises UnskippableError if the model's blocks cannot be removed one by one, and InputError if another call uses
    the model.
    """
    from pruning.engine.devices import exact

    _check_parts(module, tokenizer)
    check_type("name", name, str)
    check_name("name", name)
    exact()
    with used_by("wrap_model", module, name):
        return PrunableModel(wrapped(module, name), tokenizer)


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
    from pruning.config.app import build_option
    from pruning.config.groups import options

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


# Check the arguments of the Python interface before anything is computed: their types, texts and paths.

Call = TypeVar("Call", bound=Callable[..., Any])

# What fits a type, and its name in an error. A numpy number is a number, and True is none.
FITS: dict[Any, tuple[Any, str]] = {
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str, "text"),
    bool: (bool, "True or False"),
    type(None): (type(None), "None"),
}


def checked(call: Call) -> Call:
    """The same function, which raises InputError if an argument has a plain type other than its annotation."""
    signature, hints = inspect.signature(call), dict[str, Any]()

    @wraps(call)
    def checking(*args: Any, **settings: Any) -> Any:
        if not hints:
            hints.update(typing.get_type_hints(call))
        for name, value in signature.bind(*args, **settings).arguments.items():
            if signature.parameters[name].kind is not inspect.Parameter.VAR_KEYWORD and name in hints:
                check_type(name, value, hints[name])
        return call(*args, **settings)

    return cast(Call, checking)


def check_types(settings: Any, names: Iterable[str] | None = None) -> None:
    """Raise InputError, which names the value, if a field of a dataclass has a value of another type.

    `names` are the fields to check; by default, all. Types that are not plain, such as of mappings, are not checked.
    """
    hints = typing.get_type_hints(type(settings))
    for name in [field.name for field in dataclasses.fields(settings)] if names is None else names:
        check_type(name, getattr(settings, name), hints[name])


def check_settings(kind: type[Any], settings: Mapping[str, Any], what: str) -> None:
    """Raise InputError if a dataclass has no field of a name, or if a value has another type than its field.

    `what` is the noun of such a setting in messages.
    """
    hints, known = typing.get_type_hints(kind), [field.name for field in dataclasses.fields(kind)]
    for name, value in settings.items():
        if name not in known:
            raise unknown(what, name, known)
        check_type(name, value, hints[name])


def check_type(name: str, value: Any, wanted: Any) -> None:
    """Raise InputError if a value is not of the type `wanted`: a plain type or class, a list of these, or a union.

    Other types are not checked here: those of models and masks, of data, and `Any`.
    """
    union = isinstance(wanted, types.UnionType) or typing.get_origin(wanted) is typing.Union
    choices = typing.get_args(wanted) if union else (wanted,)
    if typing.get_origin(wanted) is list:
        (inner,) = typing.get_args(wanted)
        if not isinstance(value, list | tuple):
            raise InputError(f"{name}={shown(value)} has the wrong type: give a list.")
        for number, one in enumerate(value):
            check_type(f"{name}[{number}]", one, inner)
        return
    if Any in choices or not all(isinstance(one, type) and not _elsewhere(one) for one in choices):
        return
    pairs = [FITS.get(choice, (choice, f"a {choice.__name__}")) for choice in choices]
    if not any(isinstance(value, fit) and (fit is bool or not isinstance(value, bool)) for fit, _ in pairs):
        raise InputError(
            f"{name}={shown(value)} has the wrong type: give {' or '.join(words for _, words in pairs)}."
        )


def _elsewhere(kind: type[Any]) -> bool:
    """Whether a value of this type has a check of its own, whose message says how to make such a value."""
    return kind.__name__ in ("PrunableModel", "Mask")


def list_of_texts(texts: Any, name: str) -> list[str]:
    """The texts as a list. Raises InputError if they are one text, or if one of them is no Unicode text.

    A text is a sequence of texts, its characters, but nobody means these.
    """
    found = listed(texts, name, "texts (str)")
    for number, text in enumerate(found):
        check_text(text, f"{name}[{number}]")
    return found


def listed(values: Any, name: str, what: str) -> list[Any]:
    """Some values as a list. Raises InputError if they are one text, a mapping, or nothing that can be listed."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        given = "one text" if isinstance(values, str) else shown(values)
        raise InputError(f"{name} is {given}: give a list of {what}, [...].")
    return list(values)


def check_text(text: Any, name: str) -> None:
    """Raise InputError if a value is no Unicode text."""
    if not isinstance(text, str):
        raise InputError(f"{name} is {shown(text)}: give text (str).")
    try:
        check_encodable(text, name)
    except ValueError as error:
        raise InputError(f"{error} Give other text.") from error


def path_of(name: str, value: str | Path) -> Path:
    """The path in an argument. Raises InputError if no file can have this path."""
    check_type(name, value, str | Path)
    try:
        if not str(value) or b"\0" in os.fsencode(value):
            raise ValueError("it is empty or holds a null byte")
        return Path(value).expanduser()
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{name}={shown(value)} is not a path ({error}): give another one.") from error


# Calibration samples for the Python interface: from lists of texts or items, or from a named option.

Texts: TypeAlias = Sequence[str]
ItemList: TypeAlias = Sequence[Item | Mapping[str, Any]]
Calibration: TypeAlias = str | Texts | ItemList | Samples | None  # None: the objective chooses

# Defaults, as in the options of `calibration`: 16 windows of 256 tokens (`text_file`), 64 items (`items_file`).
SAMPLES, LENGTH, ITEMS = 16, 256, 64
# The calibration option for each kind of data; used if no data are given and the objective is an instance.
DEFAULTS = {"text": "pydoc", "any": "pydoc", "items": "commonsense", "both": "both"}


@dataclasses.dataclass(frozen=True)
class Draw:
    """How many samples are drawn, how long each is, and the seed; None means the default for the kind of data.

    Error messages put `prefix`, the name of the function, before a setting's name.
    """

    samples: int | None
    length: int | None
    seed: int
    prefix: str = "search_mask"


def draw_samples(model: PrunableModel, data: Calibration, draw: Draw, objective: Any) -> Samples:
    """Samples in random order, as a cell draws them. Raises InputError if the data are too few or malformed."""
    check_types(draw, ("samples", "length", "seed"))
    drawn = _drawn(model, data, draw, objective)
    check_ids(model, {"calibration": drawn})
    return drawn


def _drawn(model: PrunableModel, data: Calibration, draw: Draw, objective: Any) -> Samples:
    if isinstance(data, Samples):
        _refuse(draw, ("samples", "length"), "these samples were drawn already")
        return data
    if data is None or isinstance(data, str):
        drawn: Samples = _option(data, draw, objective).draw(model.tokenizer)
        return drawn.shuffled()
    given = listed(data, "calibration", "texts or items")
    if not given:
        raise InputError(
            "calibration is an empty list: give texts (str) or items (question, choices, answer)."
        )
    if all(isinstance(one, str) for one in given):
        for number, text in enumerate(given):
            check_text(text, f"calibration[{number}]")
        return text_windows(model, cast(Texts, given), draw).shuffled()
    _refuse(draw, ("length",), "items have the length that they have")
    return item_rows(model, cast(ItemList, given), draw).shuffled()


def _refuse(draw: Draw, names: Sequence[str], why: str) -> None:
    """Raise InputError if a size is given that would change nothing."""
    for name in names:
        if (value := getattr(draw, name)) is not None:
            raise InputError(f"{draw.prefix} got {name}={value}, but {why}: leave it out.")


def text_windows(model: PrunableModel, texts: Texts, draw: Draw) -> Samples:
    """Windows of some texts, in the order of the texts."""
    if not any(text.strip() for text in texts):
        raise InputError("the texts hold nothing but white space: give text to predict.")
    windows = WindowDraw(_given(draw.samples, SAMPLES), _given(draw.length, LENGTH), draw.seed, draw.prefix)
    windows.check()
    return windows.windows(texts, model.tokenizer, "texts")


def item_rows(model: PrunableModel, items: ItemList, draw: Draw) -> Samples:
    """Rows of multiple-choice items, in the order of the list; an item is an `Item` or a mapping of its fields."""
    pool = item_list(items, "items", "item")
    rows = ItemDraw(_given(draw.samples, min(ITEMS, len(pool))), draw.seed, setting=f"{draw.prefix}.samples")
    rows.check()
    return rows.rows(pool, model.tokenizer, "items")


def item_list(items: Any, name: str, where: str) -> list[Item]:
    """Items from a list of `Item`s and mappings. Raises InputError, which begins with `where`, if one is wrong."""
    given = enumerate(listed(items, name, "items"))
    return [(checked_item if isinstance(one, Item) else read_item)(one, f"{where} {i}") for i, one in given]


def check_ids(model: PrunableModel, data: Mapping[str, Samples]) -> None:
    """Raise InputError if a token of some data has no embedding: the tokenizer then belongs to another model."""
    rows = model.module.get_input_embeddings().num_embeddings
    preflight.check_ids(rows, {name: samples.largest_id for name, samples in data.items()})


def _given(value: int | None, default: int) -> int:
    return default if value is None else value


def _option(name: str | None, draw: Draw, objective: Any) -> Any:
    """Build an option of `conf/calibration` with the given sizes; if `name` is None, the objective chooses."""
    from pruning.config.app import build_named, build_option

    seed = f"seed={draw.seed}"
    if name is None and isinstance(objective, str):
        calibration = build_option("calibration", [f"objective={objective}", seed])
    else:
        chosen = DEFAULTS[objective.needs] if name is None else name
        calibration = build_named("calibration", chosen, seed)
    fields = {field.name for field in dataclasses.fields(calibration)}
    sizes = {"samples": draw.samples, "length": draw.length}
    wanted = {key: value for key, value in sizes.items() if value is not None}
    if missing := sorted(wanted.keys() - fields):
        raise InputError(
            f"the calibration {name or type(calibration).__name__} has no {' and no '.join(missing)}: leave it out, "
            "or give a list of texts or items."
        )
    return dataclasses.replace(calibration, **wanted)
