"""Table 1: zero-shot accuracy of the masks, by objective and algorithm; mean and spread over calibration draws.

python -m analysis.table1_accuracy --results results --study small

Source: table 1 of arXiv 2604.24938, which has the margin-pruned masks. Where the study has one of the paper's
models, the paper's number stands beside. The CSV also has every single metric and the calibration loss.
"""

from __future__ import annotations

from analysis.command import arguments, asked
from analysis.figure import save
from analysis.metrics import choose
from analysis.outcomes import aggregate, typeset


def main() -> None:
    """Draw the table for a results folder."""
    given = arguments("Accuracy of the masks.", metrics=True)
    frame, title = asked(given)
    metric = choose(frame, "acc", given.accuracy)
    found = aggregate(frame, metric, "table1_accuracy", "margin")
    save(typeset(found, metric, title, 1), found, given.out, "table1_accuracy")


if __name__ == "__main__":
    main()
