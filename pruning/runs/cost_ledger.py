"""What a cell's forward passes cost, summed over all the runs that it took, kills included."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pruning.core import atomic_files
from pruning.distributed import collectives
from pruning.engine.cost import Cost


@dataclass
class CostLedger:
    """A running `Cost` and what earlier runs of the same cell had spent, kept in a file until the cell is done."""

    path: Path
    running: Cost
    earlier: Cost
    _saved: Cost

    @classmethod
    def open(cls, path: Path, running: Cost) -> CostLedger:
        """Go on from what the file says, if there is one."""
        earlier = collectives.on_first(
            lambda: Cost(**atomic_files.read_json(path)) if path.exists() else Cost()
        )
        return cls(path, running, earlier, replace(running))

    def total(self) -> Cost:
        """All runs and ranks together."""
        return self.earlier.plus(self.running.over_ranks())

    def save(self) -> None:
        """Write the total, if anything was spent since the last time."""
        spent = self.running.over_ranks()
        if spent != self._saved and collectives.is_first():
            atomic_files.write_json(self.path, asdict(self.earlier.plus(spent)))
        self._saved = spent

    def close(self) -> None:
        """The result holds it now."""
        if collectives.is_first():
            self.path.unlink(missing_ok=True)
