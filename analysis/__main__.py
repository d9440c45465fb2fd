"""The command `python -m analysis NAME ...`: figures, tables, the report and the archives of studies."""

from __future__ import annotations

import sys

from pruning.core.terminal import run_command

COMMANDS = {
    "fig1": "figures.fig1_masks:main",
    "fig2": "figures.fig2_ranks:main",
    "fig3": "figures.fig3_variance:main",
    "fig4": "figures.fig4_overlap:main",
    "fig5": "figures.fig5_variance_shares:main",
    "fig6": "figures.fig6_crossed:main",
    "fig7": "figures.fig7_cost:main",
    "fig8": "figures.fig8_stability:main",
    "fig9": "figures.fig9_units:main",
    "fig10": "figures.fig10_healing:main",
    "table1": "figures.outcome_tables:table1",
    "table2": "figures.outcome_tables:table2",
    "table3": "figures.outcome_tables:table3",
    "report": "report.page:main",
    "paper-check": "paper.check:main",
    "power": "figures.fig5_variance_shares:power",
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
