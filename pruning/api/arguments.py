"""Check the arguments of the Python interface before anything is computed: their types, texts, and token ids."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

from pruning.api.model import PrunableModel
from pruning.calibration.samples import Samples
from pruning.core.errors import InputError
from pruning.models import preflight

# What fits a type, and its name in an error. A numpy number is a number, and True is none.
FITS: dict[Any, tuple[Any, str]] = {
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str, "text"),
    bool: (bool, "True or False"),
    type(None): (type(None), "None"),
}


def check_types(settings: Any, names: Iterable[str] | None = None) -> None:
    """Raise InputError, which names the value, if a field of a dataclass has a value of another type.

    `names` are the fields to check; by default, all. Types that are not plain, such as of mappings, are not checked.
    """
    hints = typing.get_type_hints(type(settings))
    for name in [field.name for field in dataclasses.fields(settings)] if names is None else names:
        check_type(name, getattr(settings, name), hints[name])


def check_type(name: str, value: Any, wanted: Any) -> None:
    """Raise InputError if a value is not of the type `wanted`, which can be a union of plain types and classes."""
    union = isinstance(wanted, types.UnionType) or typing.get_origin(wanted) is typing.Union
    choices = typing.get_args(wanted) if union else (wanted,)
    if not all(isinstance(choice, type) for choice in choices):
        return
    pairs = [FITS.get(choice, (choice, f"a {choice.__name__}")) for choice in choices]
    if not any(isinstance(value, fit) and (fit is bool or not isinstance(value, bool)) for fit, _ in pairs):
        raise InputError(
            f"{name}={value!r} has the wrong type: give {' or '.join(words for _, words in pairs)}."
        )


def list_of_texts(texts: Any, name: str) -> list[str]:
    """The texts as a list. Raises InputError if they are one text, or if one of them is no text.

    A text is a sequence of texts, its characters, but nobody means these.
    """
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        what = "one text" if isinstance(texts, str) else repr(texts)
        raise InputError(f"{name} is {what}: give a list of texts, [text].")
    found = list(texts)
    for number, text in enumerate(found):
        if not isinstance(text, str):
            raise InputError(f"{name}[{number}] is {text!r}: give texts (str).")
    return found


def check_ids(model: PrunableModel, data: Mapping[str, Samples]) -> None:
    """Raise InputError if a token of some data has no embedding: the tokenizer then belongs to another model."""
    rows = model.module.get_input_embeddings().num_embeddings
    preflight.check_ids(rows, {name: samples.largest_id for name, samples in data.items()})
