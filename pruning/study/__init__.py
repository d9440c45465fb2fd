"""The commands of the command line: compose cells, check them all, run them, and sum up."""

from collections.abc import Mapping
from typing import Any, TypeAlias

# A composed configuration, and the options chosen in Hydra's groups, by group.
Composed: TypeAlias = tuple[Any, Mapping[str, Any]]
