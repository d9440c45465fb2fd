"""The command `depth-pruning grid`; in a checkout, `python launch.py` is the same command.

This module imports nothing that is slow, so that Ctrl-C works at once and a first line is shown immediately.
"""

from __future__ import annotations

import sys
from pkgutil import resolve_name

from pruning.core import VERSION
from pruning.core.terminal import HELP, guarded, prepare_process, show

# With these flags of Hydra, the command only prints information and runs nothing.
SHOWING = {"--hydra-help", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc"}


def main() -> None:
    """Run one cell or, with `-m`, a grid. If anything is wrong, prints it in plain words."""
    with guarded():
        words = sys.argv[1:]
        if HELP & {*words}:
            from pruning.config.help_page import grid_help

            program = "python launch.py" if sys.argv[0].endswith("launch.py") else "depth-pruning grid"
            show(grid_help(program, "--help=all" in words))
            return
        if "--version" in words:
            show(f"depth-pruning {VERSION}")
            return
        prepare_process()
        if not SHOWING & {word.partition("=")[0] for word in words}:
            print("reading the settings", file=sys.stderr, flush=True)  # noqa: T201
        resolve_name("pruning.study.command:launch")()
