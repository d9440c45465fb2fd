"""Make a better small model from a model, with one command.

depth-pruning compress MODEL [OUT] [ratio=0.2] [minutes=30] [NAME=VALUE ...]

MODEL is a directory that save_pretrained wrote, a GGUF file, OWNER/NAME on the hub, or an option of the group model,
such as smollm2. OUT is the directory for the smaller model. With minutes=30, search and training are chosen to fit
that time. NAME=VALUE are settings as in `depth-pruning grid experiment=compress`; this command is its short form.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pruning.core.errors import InputError
from pruning.core.terminal import command_words, guarded
from pruning.study import launch

USAGE = "depth-pruning compress MODEL [OUT] [ratio=0.2] [minutes=30] [NAME=VALUE ...]"


def main() -> None:
    """The command `depth-pruning compress`. If anything is wrong, prints it in plain words."""
    with guarded():
        sys.argv[1:] = launch_words(command_words(__doc__))
        launch.main()


def launch_words(words: Sequence[str]) -> list[str]:
    """The words of `depth-pruning grid` that do the same. Raises InputError if the model is missing or unknown."""
    from pruning.config.words import is_setting

    places = [word for word in words if not is_setting(word) and not word.startswith("-")]
    if not 1 <= len(places) <= 2:
        raise InputError(
            f"{len(places)} places are given: give a model, and then a directory for the smaller one. {USAGE}"
        )
    out = [f"export={_quoted(folder)}" for folder in places[1:]]
    return [
        "experiment=compress",
        *model_words(places[0]),
        *out,
        *(word for word in words if word not in places),
    ]


def model_words(place: str) -> list[str]:
    """The words of `depth-pruning grid` that choose a model: a directory or file, a name on the hub, or an option.

    Raises InputError if there is no such model.
    """
    from pruning.config.groups import options
    from pruning.config.words import is_hub_name

    known = [name for name in options("model") if name != "local"]
    if Path(place).expanduser().exists():
        return ["model=local", f"model.path={_quoted(place)}"]
    if place in known or is_hub_name(place):
        return [f"model={place}"]
    raise InputError(
        f"there is no model '{place}': give a directory, a GGUF file, OWNER/NAME on the hub, or one of "
        f"{', '.join(known)}."
    )


def _quoted(path: str) -> str:
    """A path as a value in Hydra's grammar, which reserves some characters."""
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'
