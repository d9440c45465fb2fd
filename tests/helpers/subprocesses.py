"""Run `depth-pruning` in a separate process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def depth_pruning(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run this checkout's `depth-pruning` in a folder; returns the ended process with its output."""
    command = [sys.executable, "-m", "pruning.commands", *words]
    given = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(command, cwd=folder, env=given, check=False, capture_output=True, text=True)
