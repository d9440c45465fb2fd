"""Check the arguments of the Python interface before anything is computed: their types, texts and paths."""

from __future__ import annotations

import dataclasses
import os
import types
import typing
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from pruning.calibration.item_files import check_encodable
from pruning.core.errors import InputError, shown, unknown

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
    """Raise InputError if a value is not of the type `wanted`: a plain type or class, a list of these, or a union.

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

    `what` is the name of such a setting in messages.
    """
    hints, known = typing.get_type_hints(kind), [field.name for field in dataclasses.fields(kind)]
    for name, value in settings.items():
        if name not in known:
            raise unknown(what, name, known)
        check_type(name, value, hints[name])


def listed(values: Any, name: str, what: str) -> list[Any]:
    """Some values as a list. Raises InputError if `values` is one text, a mapping, or not iterable."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        given = "one text" if isinstance(values, str) else shown(values)
        raise InputError(f"{name} is {given}: give a list of {what}, [...].")
    return list(values)


def list_of_texts(texts: Any, name: str) -> list[str]:
    """The texts as a list. Raises InputError if `texts` is one text, or if an item is not Unicode text."""
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
