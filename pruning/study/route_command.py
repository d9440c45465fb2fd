"""Choose for a prompt which units a model runs without, say why, and generate without them.

python -m pruning.route WHERE PROMPT [question=true] [max_new_tokens=64] [results=results]

WHERE is a folder with a router, such as results/routing/NAME, or the name of a study of tasks that has one router.
question=true puts a bare question into the wording that the router was fitted to. max_new_tokens=0 generates nothing.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pruning.core import storage
from pruning.core.errors import InputError, unknown
from pruning.core.terminal import prepare_process
from pruning.routing import router_files
from pruning.study.grid import say

USAGE = 'python -m pruning.route WHERE "PROMPT" [question=true] [max_new_tokens=64] [results=results]'
OPTIONS = ("question", "max_new_tokens", "results")


@dataclass(frozen=True)
class Asked:
    """What the words of a command line ask for."""

    where: str
    prompt: str
    question: bool = False
    max_new_tokens: int = 64
    results: Path = Path("results")


def main() -> None:
    """The command `python -m pruning.route`. Errors are raised, and `run_command` prints them in plain words."""
    prepare_process()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    words = sys.argv[1:]
    if not words or {"-h", "--help"} & set(words):
        say(f"usage: {USAGE}\n\n{__doc__}")
        return
    asked = read_words(words)
    folder = folder_of(asked.where, asked.results)
    from pruning.api.router import Router

    router = Router.load(folder)
    chosen = router.route(asked.prompt, question=asked.question)
    say(f"{chosen}\nthe router took {1000 * chosen.seconds:.0f} ms")
    if asked.max_new_tokens:
        text = router.generate(asked.prompt, question=asked.question, max_new_tokens=asked.max_new_tokens)
        say(f"\n{text.strip()}")


def read_words(words: Sequence[str]) -> Asked:
    """The request of a command line: two places, then settings. Raises InputError if it cannot be read."""
    if len(words) < 2:
        raise InputError(f"{len(words)} words are given: give a folder or a study, and a prompt. {USAGE}")
    where, prompt, *settings = words
    given = {word.partition("=")[0]: word.partition("=")[2] for word in settings}
    for name in given:
        if name not in OPTIONS:
            raise unknown("setting of pruning.route", name, OPTIONS)
    question, most = given.get("question", "false"), given.get("max_new_tokens", "64")
    if question not in ("true", "false"):
        raise InputError(f"question={question} is not valid: give true or false.")
    if not most.isdecimal():
        raise InputError(f"max_new_tokens={most} is not valid: give a whole number, 0 or more.")
    results = Path(given.get("results", "results")).expanduser()
    return Asked(where, prompt, question == "true", int(most), results)


def folder_of(where: str, results: Path) -> Path:
    """The folder of a router: `where` itself, or the one of the study `where`. Raises InputError if there is none."""
    folder = Path(where).expanduser()
    if (folder / router_files.ROUTER).is_file():
        return folder
    records = sorted((results / router_files.FOLDER).glob(f"*/{router_files.RECORD}"))
    found = [path.parent for path in records if where in router_files.studies_of(storage.read_json(path))]
    if not found:
        raise InputError(
            f"{where} is no folder with a {router_files.ROUTER}, and {results} holds no router of that study: "
            "give the folder of a router, or results=DIR. `python launch.py experiment=tasks tasks.folder=DIR` makes "
            "one."
        )
    if len(found) > 1:
        listed = "\n".join(map(str, found))
        raise InputError(f"the study '{where}' has {len(found)} routers: give the folder of one.\n{listed}")
    return found[0]
