"""The words of a command line: their order, and how to quote what Hydra's grammar cannot read."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from pruning.core.errors import InputError, merged_error

SWEEP = {"-m", "--multirun"}


MAPPINGS = ("texts", "items", "templates", "max_memory")  # settings whose values are written in braces


def ordered(words: Sequence[str]) -> list[str]:
    """The words with all settings before all flags: Hydra does not accept settings on both sides of a flag."""
    settings = [word for word in words if is_setting(word)]
    return [*settings, *(word for word in words if not is_setting(word))]


def is_setting(word: str) -> bool:
    """Whether a word gives or removes a setting: `name=value`, `+name=value`, `~name`."""
    return word.startswith("~") or ("=" in word and not word.startswith("-"))


def names_folder(word: str) -> bool:
    """Whether a word of a command that takes folders and settings is a folder: `results`, `~/results`, `./k=1`."""
    return "=" not in word or word.startswith(("/", "~", "."))


def check_words(words: Sequence[str]) -> None:
    """Raise InputError, which shows the quoted word, for each setting that Hydra's grammar cannot read."""
    errors = [
        InputError(_unreadable(word, bool(SWEEP & {*words})))
        for word in words
        if is_setting(word) and not _reads(word)
    ]
    if errors:
        raise merged_error(errors)


def _reads(word: str) -> bool:
    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        return False
    return True


def _unreadable(word: str, sweeps: bool) -> str:
    name, _, value = word.partition("=")
    odd = " ".join(dict.fromkeys(re.findall(r"[^\w./:,@+\-\s%]|[^\x00-\x7f]", value)))
    wrong = f"{word} cannot be read" + (f": Hydra reserves {odd}" if odd else "")
    quoted = f"{name}={_quoted(value, sweeps)}"
    if value[:1] == "[" or (value[:1] == "{" and name.rpartition(".")[2] in MAPPINGS):
        return f"{wrong}. Quote each path or text within the brackets: '{name}={{NAME: \"PATH\"}}'."
    if not _reads(quoted):
        return f"{wrong}. Write NAME=VALUE, and put the value in quotes within quotes: 'NAME=\"VALUE\"'."
    return f"{wrong}. Put the value in quotes within quotes: {_for_shell(quoted)}"


def _quoted(value: str, sweeps: bool) -> str:
    """A value in double quotes; in a sweep, each of the values between commas."""
    parts = value.split(",") if sweeps else [value]
    return ",".join('"' + part.replace("\\", "\\\\").replace('"', '\\"') + '"' for part in parts)


def _for_shell(word: str) -> str:
    return f"'{word}'" if "'" not in word else shlex.quote(word)
