"""Choose for a prompt which units a model runs without, say why, and generate without them.

depth-pruning route WHERE PROMPT [question=true] [max_new_tokens=64] [results=results]

WHERE is a folder with a router, such as results/routing/NAME, or the name of a study of tasks that has one router.
question=true puts a bare question into the wording that the router was fitted to. max_new_tokens=0 generates nothing.
"""

from __future__ import annotations

from pathlib import Path

from pruning.core import storage
from pruning.core.errors import InputError, unknown
from pruning.core.terminal import command_words
from pruning.routing import fitted_router
from pruning.study.text_tables import say

DEFAULTS = {"question": "false", "max_new_tokens": "64", "results": "results"}


def main() -> None:
    """The command `depth-pruning route`."""
    words = command_words()
    if len(words) < 2:
        raise InputError(f"{len(words)} words are given: give a folder or a study, and a prompt.")
    where, prompt, *settings = words
    given = DEFAULTS | dict(word.partition("=")[::2] for word in settings)
    for name in given.keys() - DEFAULTS:
        raise unknown("setting of route", name, DEFAULTS)
    if given["question"] not in ("true", "false"):
        raise InputError(f"question={given['question']} is not valid: give true or false.")
    if not (count := given["max_new_tokens"]).isdecimal():
        raise InputError(f"max_new_tokens={count} is not valid: give a whole number, 0 or more.")
    folder = folder_of(where, Path(given["results"]).expanduser())
    from pruning.api.router import Router

    router, question = Router.load(folder), given["question"] == "true"
    chosen = router.route(prompt, question=question)
    say(f"{chosen}\nthe router took {1000 * chosen.seconds:.0f} ms")
    if most := int(count):
        say(f"\n{router.generate(prompt, question=question, max_new_tokens=most).strip()}")


def folder_of(where: str, results: Path) -> Path:
    """The folder of a router: `where` itself, or the one of the study `where`. Raises InputError if there is none."""
    folder = Path(where).expanduser()
    if (folder / fitted_router.ROUTER).is_file():
        return folder
    records = sorted((results / fitted_router.FOLDER).glob(f"*/{fitted_router.RECORD}"))
    found = [path.parent for path in records if where in storage.read_json(path).get("studies", ())]
    if not found:
        raise InputError(
            f"{where} is no folder with a {fitted_router.ROUTER}, and {results} holds no router of that study: "
            "give the folder of a router, or results=DIR. One is made by `depth-pruning grid experiment=tasks "
            "tasks.folder=DIR`."
        )
    if len(found) > 1:
        listed = "\n".join(map(str, found))
        raise InputError(f"the study '{where}' has {len(found)} routers: give the folder of one.\n{listed}")
    return found[0]
