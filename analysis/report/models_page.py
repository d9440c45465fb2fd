"""One self-contained HTML page of `depth-pruning compare`: the table of models and the figure."""

from __future__ import annotations

from pathlib import Path

from pruning.core.model_table import ModelTable
from pruning.core.records import leaves
from pruning.core.storage import write_text

from ..figures import models_compared
from ..figures.cli import save
from ..figures.style import use_style
from . import study_data
from .page import embedded, inlined

NAME = "models"


def write(folder: Path) -> Path:
    """Write the figure and the page of the record in a folder beside it, and return the page."""
    use_style()
    table = ModelTable.read(folder)
    drawing = models_compared.drawing(table)
    save(drawing, folder, NAME, models_compared.TITLE)
    page = folder / f"{NAME}.html"
    write_text(page, _page(table, embedded(drawing.figure)))
    return page


def _page(table: ModelTable, figure: str) -> str:
    columns = table.columns()
    return (
        study_data.templates()
        .get_template("models.html.j2")
        .render(
            first=table.rows[0].name,
            models=table.rows,
            headings=[*columns],
            rows=[*zip(*columns.values(), strict=True)],
            notes=table.notes,
            figure=figure,
            title=models_compared.TITLE,
            settings=[*leaves(table.evaluation, "eval."), *leaves(table.speed, "speed.")],
            style=inlined("report.css"),
        )
    )
