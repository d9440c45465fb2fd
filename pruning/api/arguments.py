"""Check the arguments of the Python interface before anything is computed: their types, texts and paths."""

from __future__ import annotations

import dataclasses
import inspect
import os
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar, cast

from pruning.calibration.records import check_encodable
from pruning.core.errors import InputError, shown, unknown

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
