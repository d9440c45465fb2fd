"""The cut of an export as a configuration for mergekit, which copies ranges of layers (passthrough)."""

from __future__ import annotations

from itertools import pairwise

import yaml

from pruning.core.mask import Mask
from pruning.export.model_card import Facts
from pruning.export.portable import one_line


def mergekit(facts: Facts) -> str:
    """A passthrough configuration for mergekit that makes the same cut as the export; layer ranges are half-open."""
    slices = [
        {"sources": [{"model": facts.base, "layer_range": [start, end]}]} for start, end in ranges(facts.mask)
    ]
    notes = [
        "# The same cut with mergekit: mergekit-yaml mergekit.yaml OUT",
        f"# The weights of this export come from {one_line(facts.source)}.",
    ]
    if not facts.base.count("/"):
        notes.append("# Give the directory of the original model in place of its name.")
    if facts.hybrid:
        notes.append(
            "# mergekit does not change config.layer_types: copy config.json from here, or the result is wrong."
        )
    if facts.scales is not None or facts.repair is not None:
        notes.append("# This file does not contain the compensation of this export.")
    if facts.healed is not None:
        notes.append(
            "# The blocks of this export were trained after the cut; this file copies them untrained."
        )
    body = {"slices": slices, "merge_method": "passthrough", "dtype": facts.dtype}
    return "\n".join(notes) + "\n" + yaml.safe_dump(body, sort_keys=False, default_flow_style=None)


def ranges(mask: Mask) -> list[tuple[int, int]]:
    """The ranges of consecutive kept blocks, half-open."""
    edges = [i for i in range(mask.n_blocks + 1) if (i in mask.kept) != (i - 1 in mask.kept)]
    return [pair for number, pair in enumerate(pairwise(edges)) if number % 2 == 0]
