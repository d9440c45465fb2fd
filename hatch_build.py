"""Put `conf` and `analysis` inside `pruning` in a wheel, so that an installation does not take their names.

An editable installation reads them from the checkout, so it needs no copies.
"""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

INSIDE = ("conf", "analysis")


class InstallInside(BuildHookInterface[Any]):
    """Add the folders to a wheel under `pruning/`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it builds."""
        if version == "standard":
            build_data["force_include"] |= {f"{self.root}/{name}": f"pruning/{name}" for name in INSIDE}
