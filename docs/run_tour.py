"""Run docs/tour.ipynb and save its outputs in it.

python -m docs.run_tour `make tour` runs this; it needs the development packages
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

TOUR = Path(__file__).parent / "tour.ipynb"
SECONDS = 1800  # time limit for one cell of the notebook, enough for a slow machine


def executed(path: Path = TOUR) -> Any:
    """The notebook with fresh outputs. Raises CellExecutionError if one of its cells fails."""
    import nbformat
    from nbclient import NotebookClient

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    notebook = nbformat.read(path, as_version=4)
    folder = {"metadata": {"path": str(path.parents[1])}}
    NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=folder).execute()
    for cell in notebook.cells:
        cell.metadata = {}  # without the times of the run
        if cell.cell_type == "code":  # without stderr, which names folders of this machine
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata.pop("language_info", None)
    return notebook


if __name__ == "__main__":
    import nbformat

    nbformat.write(executed(), TOUR)
