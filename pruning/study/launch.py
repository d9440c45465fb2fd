"""The command line: `python launch.py` in a checkout, `depth-pruning` once installed.

This module imports nothing that is slow, so that Ctrl-C works and a first line is shown from the first moment on.
"""

from __future__ import annotations

import sys

from pruning.core.terminal import guarded, prepare_process, run_command

# With these flags of Hydra, the command only prints something.
SHOWING = {
    "--help",
    "-h",
    "--hydra-help",
    "--version",
    "--cfg",
    "-c",
    "--info",
    "-i",
    "--shell-completion",
    "-sc",
}


def main() -> None:
    """Run one cell or, with `-m`, a grid. If anything is wrong, prints it in plain words."""
    with guarded():
        prepare_process()
        if not SHOWING & {word.partition("=")[0] for word in sys.argv[1:]}:
            print("reading the settings", file=sys.stderr, flush=True)  # noqa: T201
        run_command("pruning.study.command:launch")
