"""A command that only reads finished results imports nothing that is slow to import."""

from __future__ import annotations

import subprocess
import sys

import pytest

SLOW = ("torch", "transformers", "mlflow", "scipy", "pandas")


@pytest.mark.parametrize(
    "module",
    [
        "pruning.study.command",
        "pruning.runs.prepare",
        "pruning.tracking.store",
        "pruning.config.app; pruning.config.app.composed(['k=2'])",
    ],
)
def test_checking_and_listing_cells_imports_no_large_library(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {SLOW} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ended.stdout.strip() == "[]", f"importing {module} imports {ended.stdout}"
