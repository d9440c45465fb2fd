"""The progress bar of a search: evaluations done, best loss, time left."""

from __future__ import annotations

import io
import sys

from tqdm import tqdm

from pruning.distributed import collectives

# No total is shown for a search with a higher limit of evaluations: it can run as long as it improves.
OPEN = 100_000
BAR = "{desc} {percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} evaluations{postfix} [{elapsed}<{remaining}]"
COUNT = "{desc} {n_fmt} evaluations{postfix} [{elapsed}]"


class Progress:
    """A context with a progress bar; the search calls `update` after each score."""

    def __init__(self, title: str, total: int, known: int = 0, hidden: bool = False) -> None:
        self.total = total
        self.bar = tqdm(
            desc=title,
            total=total if total <= OPEN else None,
            initial=min(known, total),
            unit="eval",
            file=io.StringIO() if hidden or not collectives.is_first() else None,
            dynamic_ncols=True,
            # A terminal shows a moving bar; a log file gets a line at most every 20 seconds.
            mininterval=0.2 if sys.stderr.isatty() else 20.0,
            bar_format=BAR if total <= OPEN else COUNT,
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def update(self, evaluations: int, best: float) -> None:
        """Show the number of scored masks, and the lowest loss among the masks that remove the most blocks."""
        # The total does not count the dense model or a final mask that was never scored: stop the bar at the total.
        self.bar.set_postfix_str(f"best loss {best:.4f}", refresh=False)
        self.bar.update(min(evaluations, self.total) - self.bar.n)
