"""Load the model of a cell and set up its forward passes with the cell's settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pruning.core.errors import InputError
from pruning.models.loader import LanguageModel, load
from pruning.runs.cell import Cell
from pruning.runs.cell_settings import ForwardSettings

if TYPE_CHECKING:
    from pruning.engine.forward import Forward


def model_of(cell: Cell) -> LanguageModel:
    """The model of a cell, loaded once for consecutive cells with this model.

    Raises the same errors as `models.loader.load`, and InputError if a model in a directory is no longer the one that
    the cell's key was computed from.
    """
    from pruning.engine.device import exact

    exact(cell.forward.tf32)
    model = load(cell.model)
    if cell.model.in_directory and model.info.revision != cell.model_identity["path"]:
        raise InputError(
            f"the files in model.path={cell.model.path} have changed since this command started: run the command "
            "again when they no longer change."
        )
    return model


def forward_of(cell: Cell, model: LanguageModel) -> Forward:
    """Forward passes of a model with a cell's settings."""
    return forward_with(cell.forward, model)


def forward_with(settings: ForwardSettings, model: LanguageModel) -> Forward:
    """Forward passes of a model with given settings."""
    from pruning.engine.device import exact
    from pruning.engine.forward import Forward

    exact(settings.tf32)
    limits = (settings.batch_tokens, settings.memory, settings.patience)
    return Forward(model, *limits, settings.merge, compile=settings.compile, bounds=settings.bounds)
