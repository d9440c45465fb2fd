"""What all figures share: their command line, their style, and the three files each one writes."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import matplotlib as mpl
import matplotlib.style
import pandas as pd
from matplotlib.figure import Figure

log = logging.getLogger(__name__)

# Okabe and Ito's colours, told apart by all forms of colour blindness.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def arguments(description: str) -> argparse.Namespace:
    """`--results DIR --study NAME`, and `out`, the folder that figures go to."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--results", type=Path, default=Path("results"), help="the folder of the cells")
    parser.add_argument("--study", default=None, help="draw the cells of this study only")
    found = parser.parse_args()
    found.out = found.results / "figures"
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("analysis").setLevel(logging.INFO)
    mpl.use("Agg")
    mpl.style.use(Path(__file__).parent / "style.mplstyle")
    return found


def save(figure: Figure, drawn: pd.DataFrame, out: Path, name: str) -> None:
    """Write NAME.pdf, NAME.png and NAME.csv, the numbers that were drawn."""
    out.mkdir(parents=True, exist_ok=True)
    for ending in ("pdf", "png"):
        # No date in the file, so that the same results give the same bytes.
        metadata = {"CreationDate": None} if ending == "pdf" else {"Software": None}
        figure.savefig(out / f"{name}.{ending}", metadata=metadata)
    drawn.to_csv(out / f"{name}.csv", index=False)
    log.info("figure   %s", (out / f"{name}.png").resolve())
