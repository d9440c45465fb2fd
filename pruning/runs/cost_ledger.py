"""The cost of a cell's forward passes, summed over all its runs, including killed ones."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pruning.core import atomic_files
from pruning.distributed import collectives
from pruning.engine.cost import Cost


@dataclass
class CostLedger:
    """The `Cost` of the current run and of the cell's earlier runs. A file keeps their sum until the cell is done."""

    path: Path
    running: Cost
    earlier: Cost
    _saved: Cost

    @classmethod
    def open(cls, path: Path, running: Cost) -> CostLedger:
        """Read the cost of earlier runs from the file `path`, if it exists."""
        earlier = collectives.on_first(
            lambda: Cost(**atomic_files.read_json(path)) if path.exists() else Cost()
        )
        return cls(path, running, earlier, replace(running))

    def total(self) -> Cost:
        """The cost of all runs and ranks together."""
        return self.earlier.plus(self.running.over_ranks())

    def save(self) -> None:
        """Write the total if it has changed since the previous call."""
        spent = self.running.over_ranks()
        if spent != self._saved and collectives.is_first():
            atomic_files.write_json(self.path, asdict(self.earlier.plus(spent)))
        self._saved = spent

    def close(self) -> None:
        """Delete the file, because the result now contains the cost."""
        if collectives.is_first():
            self.path.unlink(missing_ok=True)
