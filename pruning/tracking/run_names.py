"""The name by which a person knows a run: what was searched, not a digest."""

from __future__ import annotations

import re

_KEY = re.compile(r"(?P<names>.+-.+-.+)-(?P<size>[kr])(?P<value>[0-9.]+)-s(?P<seed>\d+)-[0-9a-f]+")
_SIZES = {"k": "k", "r": "ratio"}


def run_name(cell: str, k: int | None = None) -> str:
    """The name of a cell's run, such as `smollm2 · perplexity · greedy · k=6 · seed 0`.

    `k` replaces a ratio if it is known. A key of another form is its own name. The tag `cell` holds the key: cells
    that differ in other settings have equal names.
    """
    if (key := _KEY.fullmatch(cell)) is None:
        return cell
    model, objective, algo = key["names"].rsplit("-", 2)
    size = f"k={k}" if k is not None else f"{_SIZES[key['size']]}={key['value']}"
    return " · ".join((model, objective, algo, size, f"seed {key['seed']}"))
