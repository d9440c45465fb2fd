"""Where the journals of other cells hold the scores of a mask: a line is parsed only if its mask is needed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pruning.core.trace import NAME, TraceLine, read_line, read_masks

# A journal that has not changed for some time is looked at again after this fraction of that time, at most LONGEST.
SHARE = 0.02
LONGEST = 60.0  # seconds

Blocks = tuple[int, ...]

# Within this time, a folder can change again without a new time stamp.
SETTLED = 2_000_000_000  # nanoseconds


@dataclass
class _Source:
    """A journal: the bytes that are indexed, and when to look for more."""

    path: Path
    end: int = 0
    due: float = 0.0


@dataclass
class ScoreIndex:
    """The lines of the journals that are registered in `pointers`, except that of the cell `own`, by removed blocks.

    Most cells of a large store are finished, so their journals never change. To look into every journal for every
    mask would take longer than some masks. So a journal that has long been unchanged is looked at rarely: a new score
    in it is found up to 2 % of that time later, and until then its mask counts as unknown.
    """

    results: Path
    pointers: Path
    own: str
    name: str = NAME  # of the journals
    _lines: dict[Blocks, list[tuple[Path, int]]] = field(default_factory=dict)
    _sources: dict[str, _Source] = field(default_factory=dict)
    _listed: tuple[int, int] = (0, 0)  # when the folder of pointers last changed, and when it was listed

    def refresh(self) -> list[Path]:
        """Index what is new. Returns a journal for each line that is damaged so much that its blocks are unknown."""
        self._list()
        now = time.time()
        return [path for source in self._sources.values() if now >= source.due for path in self._read(source)]

    def take(self, blocks: Blocks) -> Iterator[tuple[Path, TraceLine | None]]:
        """Yield (journal, line) for the lines of a mask, in the order in which they were indexed, once for each line.

        A line is None if it is damaged.
        """
        for path, offset in self._lines.pop(blocks, ()):
            yield path, read_line(path, offset)

    def _list(self) -> None:
        try:
            changed = self.pointers.stat().st_mtime_ns
        except FileNotFoundError:
            return
        if changed == self._listed[0] and self._listed[1] - changed > SETTLED:
            return
        self._listed = (changed, time.time_ns())
        names = {path.name for path in self.pointers.iterdir()} - {self.own}
        if names - self._sources.keys():
            known = self._sources
            self._sources = {n: known.get(n) or _Source(self.results / n / self.name) for n in sorted(names)}

    def _read(self, source: _Source) -> Iterator[Path]:
        """Index the new lines of a journal. Yields its path for each line whose blocks are unknown."""
        try:
            stat = source.path.stat()
        except OSError:  # the cell has no journal yet
            return
        if stat.st_size > source.end:
            for start, end, blocks in read_masks(source.path, source.end):
                source.end = end
                if blocks is None:
                    yield source.path
                else:
                    self._lines.setdefault(tuple(sorted({*blocks})), []).append((source.path, start))
        now = time.time()
        source.due = now + min(max(now - stat.st_mtime, 0.0) * SHARE, LONGEST)
