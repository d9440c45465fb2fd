"""Table 2: perplexity of the masks, by objective and algorithm; mean and spread over calibration draws.

python -m analysis.table2_perplexity --results results --study small

Source: table 2 of arXiv 2604.24938, which has the perplexity-pruned masks. Where the study has one of the
paper's models, the paper's number stands beside. The CSV also has every single metric and the calibration loss.
"""

from __future__ import annotations

from analysis.command import arguments, asked
from analysis.figure import save
from analysis.metrics import choose
from analysis.outcomes import aggregate, typeset


def main() -> None:
    """Draw the table for a results folder."""
    given = arguments("Perplexity of the masks.", metrics=True)
    frame, title = asked(given)
    metric = choose(frame, "ppl", given.perplexity)
    found = aggregate(frame, metric, "table2_perplexity", "perplexity")
    save(typeset(found, metric, title, 2), found, given.out, "table2_perplexity")


if __name__ == "__main__":
    main()
