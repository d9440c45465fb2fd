"""The command `depth-pruning grid`, which `python launch.py` is in a checkout.

This module imports nothing that is slow, so that Ctrl-C works and a first line is shown from the first moment on.
"""

from __future__ import annotations

import sys
from pkgutil import resolve_name

from pruning import __version__
from pruning.core.terminal import HELP, guarded, prepare_process

# With these flags of Hydra, the command only prints something.
SHOWING = {"--hydra-help", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc"}


def main() -> None:
    """Run one cell or, with `-m`, a grid. If anything is wrong, prints it in plain words."""
    with guarded():
        words = sys.argv[1:]
        if HELP & {*words}:
            from pruning.config.help_page import grid_help

            print(grid_help(_program(), "--help=all" in words))  # noqa: T201
            return
        if "--version" in words:
            print(f"depth-pruning {__version__}")  # noqa: T201
            return
        prepare_process()
        if not SHOWING & {word.partition("=")[0] for word in words}:
            print("reading the settings", file=sys.stderr, flush=True)  # noqa: T201
        resolve_name("pruning.study.command:launch")()


def _program() -> str:
    """How this command was called: `depth-pruning grid`, or `python launch.py` in a checkout."""
    return "python launch.py" if sys.argv[0].endswith("launch.py") else "depth-pruning grid"
