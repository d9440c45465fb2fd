"""Progress bars: of a search (evaluations done, best loss, time left), and of one measurement (batches done)."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from pruning.core.command import is_terminal
from pruning.core.mask import unit_noun
from pruning.distributed import collectives

# If a search can need more evaluations than this, no total is shown: the search continues while it improves.
OPEN = 100_000
BAR = "{desc} {percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} evaluations{postfix} [{elapsed}<{remaining}]"
COUNT = "{desc} {n_fmt} evaluations{postfix} [{elapsed}]"


class Progress:
    """A context manager that shows a progress bar. The search calls `update` after each score.

    `unit` is what masks remove: "block" or "sublayer".
    """

    def __init__(
        self, title: str, total: int, known: int = 0, hidden: bool = False, unit: str = "block"
    ) -> None:
        self.total = total
        self.word = unit_noun(unit)
        self.bar = tqdm(
            desc=title,
            total=total if total <= OPEN else None,
            initial=min(known, total),
            unit="eval",
            file=io.StringIO() if hidden or _silent() else None,
            dynamic_ncols=True,
            # On a terminal, the bar moves. A log file gets a new line every 20 seconds at most.
            mininterval=0.2 if is_terminal(sys.stderr) else 20.0,
            bar_format=BAR if total <= OPEN else COUNT,
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def update(self, evaluations: int, best: float, size: int) -> None:
        """Show the number of scored masks, and the lowest loss among the masks that remove the most blocks, `size`.

        Losses of masks of different sizes cannot be compared, so the size is shown too.
        """
        # `evaluations` also counts the dense model and a final mask that the search did not score. The total does
        # not count them, so the bar stops at the total.
        self.bar.set_postfix_str(
            f"best loss {best:.4f} without {size} {self.word}{'s' * (size != 1)}", refresh=False
        )
        self.bar.update(min(evaluations, self.total) - self.bar.n)


def _silent() -> bool:
    """Whether nothing is shown: another rank shows it, or there is no stream for it."""
    return sys.stderr is None or not collectives.is_first()


PART = "{desc} {percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} batches [{elapsed}<{remaining}]"


@contextmanager
def batches_shown(title: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows how many batches of a measurement are done, of how many.

    The bar appears after a second, so short measurements show nothing. It disappears at the end.
    """
    with tqdm(
        desc=title,
        file=io.StringIO() if _silent() else None,
        dynamic_ncols=True,
        leave=False,
        delay=1.0,
        mininterval=0.2 if is_terminal(sys.stderr) else 20.0,
        bar_format=PART,
    ) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
