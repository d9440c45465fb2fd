"""Choose the units that a model leaves out for a prompt, print the reasons, and generate without these units.

depth-pruning route FOLDER PROMPT [question=false] [max_new_tokens=64]

FOLDER contains a router. A study of tasks prints this path, results/routing/NAME, at its end. If
question=true, the prompt is a question, which is put into the template that the router was fitted with. If
max_new_tokens=0, nothing is generated.
"""

from __future__ import annotations

from pathlib import Path

from pruning.core.errors import InputError, unknown
from pruning.core.terminal import command_words
from pruning.routing import fitted_router
from pruning.study.text_tables import say

DEFAULTS = {"question": "false", "max_new_tokens": "64"}


def main() -> None:
    """The command `depth-pruning route`."""
    words = command_words()
    if len(words) < 2:
        raise InputError(f"{len(words)} words are given: give a folder with a router, and a prompt.")
    where, prompt, *settings = words
    given = DEFAULTS | dict(word.partition("=")[::2] for word in settings)
    for name in given.keys() - DEFAULTS:
        raise unknown("setting of route", name, DEFAULTS)
    if given["question"] not in ("true", "false"):
        raise InputError(f"question={given['question']} is not valid: give true or false.")
    if not (count := given["max_new_tokens"]).isdecimal():
        raise InputError(f"max_new_tokens={count} is not valid: give a whole number, 0 or more.")
    folder = Path(where).expanduser()
    if not (folder / fitted_router.ROUTER).is_file():
        raise InputError(
            f"{where} is not a folder with a {fitted_router.ROUTER}: give one. It is made by `depth-pruning grid "
            "experiment=tasks tasks.folder=DIR`."
        )
    from pruning.api.router import Router

    router, question = Router.load(folder), given["question"] == "true"
    chosen = router.route(prompt, question=question)
    say(f"{chosen}\nthe router took {1000 * chosen.seconds:.0f} ms")
    if most := int(count):
        say(f"\n{router.generate(prompt, question=question, max_new_tokens=most).strip()}")
