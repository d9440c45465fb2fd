"""Depth pruning of language models: which blocks can go, at what cost, and what decides it."""

from pruning.core.mask import Mask, Space

__all__ = ["Mask", "Space", "__version__"]
__version__ = "0.1.0"
