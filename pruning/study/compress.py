"""Prune a model, train the smaller model and export it, with one command.

depth-pruning compress MODEL [OUT] [ratio=0.2] [minutes=30] [NAME=VALUE ...]

MODEL is a directory that save_pretrained wrote, a GGUF file, OWNER/NAME on the hub, or an option of the group
`model`, such as smollm2. OUT is the directory for the smaller model. With minutes=30, search and training fit
into that time. This command is short for `depth-pruning grid experiment=compress NAME=VALUE ...`.
"""

from __future__ import annotations

from collections.abc import Sequence

from pruning.core.errors import InputError


def grid_words(words: Sequence[str]) -> list[str]:
    """The equivalent arguments of `depth-pruning grid`. Raises InputError for a missing or unknown model."""
    from pruning.config.words import check_line, is_setting, model_words, quoted

    check_line(words, places=True)
    places = [word for word in words if not is_setting(word) and not word.startswith("-")]
    if not 1 <= len(places) <= 2:
        raise InputError(
            f"{len(places)} places are given: give a model, and then a directory for the smaller one, as in "
            "`depth-pruning compress MODEL OUT ratio=0.2`."
        )
    model, *out = places
    rest = [word for word in words if word not in places]
    return ["experiment=compress", *model_words(model), *(f"export={quoted(place)}" for place in out), *rest]
