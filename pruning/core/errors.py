"""The exceptions of the project; all derive from `PruningError`.

An `InputError` is an error that the user can correct. It stops the command before anything expensive starts.
Any other error makes one cell fail: the error is recorded in that cell's result, and the other cells run.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import platformdirs


class PruningError(Exception):
    """Base class of the errors that this project raises on purpose; the text is written for the user."""


class InputError(PruningError):
    """A wrong value in the configuration or in a file; the text says which value, what is allowed, and what to do."""


class OutOfReachError(InputError):
    """The search of a cell would need far too many evaluations; a grid skips that cell and runs the others."""


class UnreachableError(PruningError):
    """A model or data set could not be fetched: access is restricted, its name is wrong, or there is no network."""


class UnskippableError(PruningError):
    """The blocks of a model cannot be removed safely; the text says why."""


class LossError(PruningError):
    """The loss of a mask is NaN or infinite."""


class RequestError(PruningError):
    """lm-eval would ask the model something other than what the item and the template define."""


class DamagedError(PruningError):
    """A file of an earlier run cannot be read."""


class ForeignError(PruningError):
    """A folder contains the result of another configuration."""


class MismatchError(PruningError):
    """An exported model differs from the masked model; the text says how."""


class BusyError(PruningError):
    """Another process is running this cell."""


class RankError(PruningError):
    """Several processes run this cell together, and another of them has ended or does not answer."""


def first_line(error: object) -> str:
    """An error's first line, with the second if the first ends in a colon; an error's type if it has no text."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":"):
        lines[0] = f"{lines[0]} {lines[1]}"
    return lines[0].rstrip(".,;:") if lines else type(error).__name__


def shown(value: object) -> str:
    """The `repr` of a value on one line of at most 60 characters, to quote in a message."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def unknown(what: str, name: object, known: Iterable[str]) -> InputError:
    """An InputError for an unknown name; its text gives similar names first, then all known names."""
    names = sorted(known)
    return InputError(
        f"unknown {what} '{name}'.{near_names(str(name), names)} Available: {', '.join(names) or 'none'}."
    )


def check_least(group: str, settings: object, **least: float) -> None:
    """Raise InputError if a value in `settings` is below the minimum that `least` has for it; None is allowed."""
    for name, bound in least.items():
        value = settings[name] if isinstance(settings, Mapping) else getattr(settings, name)
        if value is not None and value < bound:
            raise InputError(f"{group}.{name}={value:g} is too small: choose {bound:g} or more.")


def check_known(group: str, settings: object, **known: Collection[str]) -> None:
    """Raise InputError if a value in `settings` is not among those that `known` allows for it."""
    for name, values in known.items():
        if (value := getattr(settings, name)) not in values:
            raise unknown(f"{group}.{name}", value, values)


def near_names(name: str, known: Sequence[str]) -> str:
    """The text ` Did you mean a or b?`; empty if no known name is similar."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(near)}?" if near else ""


def merged_error(errors: Sequence[PruningError]) -> InputError:
    """One error with the texts of all `errors`, so that the user can correct everything at once."""
    return InputError("\n".join(dict.fromkeys(str(error) for error in errors)))


# Errors of the operating system (a full disk, no permission, a directory instead of a file) as plain sentences.

NO_SPACE = {errno.ENOSPC, errno.EDQUOT}  # if one of these occurs, every later write fails too
DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


def os_error(error: BaseException) -> OSError | None:
    """The exception itself if it is an OSError, else one made from the number in its text; None without a number.

    Libraries in Rust (safetensors, tokenizers) raise their own exceptions, with texts such as `(os error 28)`.
    """
    if isinstance(error, OSError):
        return error
    match = None if isinstance(error, PruningError) else re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(match[1]), os.strerror(int(match[1]))) if match else None


def unwritable(error: BaseException) -> str | None:
    """The operating system's reason for an error, such as `No space left on device`; None if it gave none."""
    found = os_error(error)
    return os.strerror(found.errno) if found is not None and found.errno else None


def cache_folder() -> Path:
    """The folder for fetched and converted files; the environment variable DEPTH_PRUNING_CACHE can change it."""
    folder = os.environ.get("DEPTH_PRUNING_CACHE") or platformdirs.user_cache_dir("depth-pruning")
    return Path(folder).expanduser()


def is_fatal(error: BaseException) -> bool:
    """Whether all later work would fail too, because of a full disk, a used-up quota or a closed output."""
    return isinstance(error, OSError) and error.errno in {*NO_SPACE, errno.EPIPE}


def sentence(error: OSError) -> str:
    """One or two sentences for the user: the path, what is wrong with it, and what to do."""
    name = error.filename2 or error.filename
    path = "" if name is None or isinstance(name, int) else os.fsdecode(name)
    text = error.strerror or first_line(error)
    reason = (text[:1].lower() + text[1:]).rstrip(".")
    if error.errno in NO_SPACE:
        return (
            f"{path or 'a file'} cannot be written, because the disk is full or a quota is used up: free some space "
            "and run the same command again. Everything finished so far is kept."
        )
    if error.errno in DENIED:
        return (
            f"{path or 'a file'} is not accessible ({reason}): ask its owner for permission, or choose another path "
            "(paths.results=DIR for results)."
        )
    return f"{path} cannot be used: {reason}." if path else f"{reason}."
