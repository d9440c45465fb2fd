"""The progress bar of a search: evaluations done, best loss, time left."""

from __future__ import annotations

import io
import sys

from tqdm import tqdm

from pruning.distributed import collectives

# If a search can need more evaluations than this, no total is shown: the search continues while it improves.
OPEN = 100_000
BAR = "{desc} {percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} evaluations{postfix} [{elapsed}<{remaining}]"
COUNT = "{desc} {n_fmt} evaluations{postfix} [{elapsed}]"


class Progress:
    """A context manager that shows a progress bar. The search calls `update` after each score."""

    def __init__(self, title: str, total: int, known: int = 0, hidden: bool = False) -> None:
        self.total = total
        self.bar = tqdm(
            desc=title,
            total=total if total <= OPEN else None,
            initial=min(known, total),
            unit="eval",
            file=io.StringIO() if hidden or not collectives.is_first() else None,
            dynamic_ncols=True,
            # On a terminal, the bar moves. A log file gets a new line every 20 seconds at most.
            mininterval=0.2 if sys.stderr.isatty() else 20.0,
            bar_format=BAR if total <= OPEN else COUNT,
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def update(self, evaluations: int, best: float) -> None:
        """Show the number of scored masks, and the lowest loss among the masks that remove the most blocks."""
        # `evaluations` also counts the dense model and a final mask that the search did not score. The total does
        # not count them, so the bar stops at the total.
        self.bar.set_postfix_str(f"best loss {best:.4f}", refresh=False)
        self.bar.update(min(evaluations, self.total) - self.bar.n)
