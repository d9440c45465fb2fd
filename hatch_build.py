"""Put `conf`, `analysis` and the notebook into `pruning` in a wheel, so that an installation takes no other names.

An editable installation reads them from the checkout, so it needs no copies. The archives of studies stay in the
repository: they are fifty times as large as the program.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

INSIDE = ("conf", "analysis")


class InstallInside(BuildHookInterface[Any]):
    """Add the folders to a wheel under `pruning/`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it builds."""
        if version == "standard":
            build_data["force_include"][str(Path(self.root) / "docs" / "tour.ipynb")] = "pruning/tour.ipynb"
            for name in INSIDE:
                files = (path for path in (Path(self.root) / name).rglob("*") if path.is_file())
                for path in files:
                    inside = path.relative_to(self.root).as_posix()
                    if not inside.endswith((".tar.xz", ".pyc")):
                        build_data["force_include"][str(path)] = f"pruning/{inside}"
