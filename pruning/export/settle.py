"""Settle the form of an export: whole blocks are cut out, and single sub-layers become zeros."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pruning.core.errors import InputError
from pruning.core.mask import Mask, unit_names
from pruning.export.request import Request

FORMS = ("smaller", "zeros")


def settled(wanted: Request) -> Request:
    """The same request with a mask over blocks if it removes whole blocks only, and with the form of the output.

    Raises InputError if the form does not suit the mask, or if a compensation cannot be exported with it.
    """
    scales, blocks = wanted.scales, wanted.mask.as_blocks()
    if wanted.form is not None and wanted.form not in FORMS:
        raise InputError(f"form={wanted.form} is unknown: choose from {', '.join(FORMS)}, or leave it out.")
    if wanted.mask.unit == "sublayer" and scales is not None:
        _check_scales(wanted.mask, scales)
        scales = None
    if blocks is None:
        if wanted.form == "smaller":
            raise InputError(
                f"form=smaller is not possible for {' '.join(wanted.mask.names())}: no architecture of transformers "
                "has blocks without attention or without MLP. Leave form out (form=zeros), or remove whole blocks."
            )
        return dataclasses.replace(wanted, scales=scales, form="zeros")
    if wanted.form == "zeros":
        raise InputError("form=zeros is for masks that remove a part of a block: whole blocks are cut out.")
    return dataclasses.replace(wanted, mask=blocks, scales=scales, form="smaller")


def _check_scales(mask: Mask, scales: Sequence[float]) -> None:
    if wrong := [unit for unit in mask.dropped if scales[unit] != 1.0]:
        factors = ", ".join(f"{unit_names(mask.unit, [unit])[0]}: {scales[unit]:.4g}" for unit in wrong)
        raise InputError(
            f"the compensation of sub-layers cannot be exported ({factors}): it would have to be folded into the "
            "output weights of every later sub-layer, which is done for whole blocks only. Search with "
            "compensation=none, or with unit=block."
        )
