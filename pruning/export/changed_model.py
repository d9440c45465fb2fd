"""The model behind an export, and the weights that the export changes: its repair, its healing, and its zeros."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from pruning.export import facts, verify
from pruning.export.healed_weights import apply_healed, load_healed, with_healed
from pruning.export.plan import Cut
from pruning.export.repaired_parts import with_repair
from pruning.export.request import Request
from pruning.export.tensor_reader import Loaded
from pruning.export.verify import Expected
from pruning.export.zeroed_parts import parts, with_zeros
from pruning.models.repaired_weights import folded_weights, replaced

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Changed:
    """What is written: the cut with its changes, the tensors to read, and the logits that the export must have.

    `model` is None if nothing is read from it any more. `goal` is None if the export is not verified.
    """

    cut: Cut
    tensors: Any
    model: Any
    goal: Expected | None


def changed(wanted: Request, cut: Cut) -> Changed:
    """Load the model if the export needs it, and plan every change of its weights.

    Raises InputError if the model does not fit into memory, or if the weights of a healing cannot be used.
    """
    healed = None if wanted.healed is None else load_healed(wanted.healed, facts.heal_record(wanted))
    needed = bool(parts(wanted.mask)) or wanted.repair is not None or healed is not None
    model = None
    if wanted.verify or cut.tensors is None or needed:
        log.info("loading %s in %s", wanted.model.name, verify.comparison_dtype(wanted.model.dtype))
        model = verify.load_rounded(wanted.model, cut.plan.precision, needed=needed)
    folded = {} if wanted.repair is None else folded_weights(model, wanted.repair, cut.plan.precision)
    weights = {name: values for name, values in folded.items() if name not in (healed or {})}
    tensors = cut.tensors or Loaded(model)
    # The stored tensors are found by the dense model's own weights, so these change only afterwards.
    new = with_repair(with_zeros(cut, wanted.mask, model, tensors), weights, model, tensors)
    if healed is not None:
        new = with_healed(new, model, healed, tensors)
        apply_healed(model, healed, new.plan)
    with replaced(model, weights):
        goal = verify.expected(model, wanted.mask, wanted.scales) if wanted.verify else None
    return Changed(new, tensors, model if cut.tensors is None else None, goal)
