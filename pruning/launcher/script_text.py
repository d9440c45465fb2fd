"""Refuse text that would change the lines of a job's script."""

from __future__ import annotations

import unicodedata
from dataclasses import fields
from pathlib import Path
from typing import Any

from pruning.core.errors import InputError
from pruning.core.nested import texts


def check_text(launcher: Any) -> None:
    """Raise InputError if a setting of a launcher holds a control character, such as a line break.

    Settings become lines of a shell script, so a line break in one of them would add a line of its own: another
    option of sbatch, or a command.
    """
    settings = {item.name: getattr(launcher, item.name) for item in fields(launcher) if item.init}
    _check("launcher", settings)


def check_folder(results: Path) -> None:
    """Raise InputError if the path of the results folder, which is in each script, holds a control character."""
    _check("paths.results", str(results))


def _check(name: str, value: Any) -> None:
    for where, text in texts(value, name):
        if found := [character for character in text if unicodedata.category(character) == "Cc"]:
            raise InputError(
                f"{where}={text!r} holds the control character {found[0]!r}, which would break a line of the job's "
                "script: remove it. In launcher.setup, give each line as an item of its own."
            )
