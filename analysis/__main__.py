"""The command `python -m analysis NAME ...`: figures, tables, the report and the archives of studies."""

from __future__ import annotations

import sys

from pruning.core.terminal import run_command

from .figures import names

COMMANDS = {name.partition("_")[0]: f"figures.{name}:FIGURE" for name in names()} | {
    "table1": "figures.outcome_tables:TABLE1",
    "table2": "figures.outcome_tables:TABLE2",
    "table3": "figures.outcome_tables:TABLE3",
    "report": "report.page:main",
    "paper-check": "paper.check:main",
    "archive": "data.archive:main",
}


def usage() -> str:
    """The names of the commands, for people to read."""
    return (
        f"python -m {__package__} NAME ...\n\nNAME is one of: {', '.join(COMMANDS)}. NAME --help tells more."
    )


if __name__ == "__main__":
    name, *words = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(usage())  # noqa: T201
        raise SystemExit(0)
    if name not in COMMANDS:
        raise SystemExit(f"there is no '{name}'.\n{usage()}")
    sys.argv = [f"python -m {__package__} {name}", *words]
    run_command(f"{__package__}.{COMMANDS[name]}")
