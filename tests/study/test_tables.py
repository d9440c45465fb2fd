"""The tables that a command prints: of finished cells, and of the models of one cell."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.core.units import rate_text
from pruning.study import guide, text_tables

settings_of = st.dictionaries(
    st.sampled_from(["seed", "dtype", "first", "margin samples"]), st.sampled_from([0, 1, None, "a"])
)


@settings(deadline=None)
@given(st.lists(settings_of, max_size=8))
def test_the_settings_that_differ_are_those_of_a_comparison_of_all_pairs(rows: list[dict[str, Any]]) -> None:
    differing = {
        name for a, b in itertools.combinations(rows, 2) for name in a.keys() & b.keys() if a[name] != b[name]
    }
    expected = [
        "".join(f" {name.rpartition(' ')[2]}={value}" for name, value in row.items() if name in differing)
        for row in rows
    ]
    assert text_tables.differing(rows) == expected


def done(dropped: list[Any], **config: Any) -> Any:
    """A finished result, as far as the table reads it."""
    unit = {} if isinstance(dropped[0], int) else {"unit": "sublayer"}
    model = {"name": "m", "dtype": "float32", "attention": "sdpa"}
    return {
        "model": model,
        "mask": {"n_blocks": 6, "dropped": dropped} | unit,
        "calibration": {
            "objective": "perplexity", "loss": 2.0, "dense_loss": 1.0, "source": "pydoc", "samples": 2, "length": 8,
        },
        "search": {
            "algo": "greedy", "k": len(dropped), "evaluations_asked": 1, "evaluations_paid": 1, "seconds": 1.0,
        },
        "evaluation": {"dense": {}, "pruned": {}},
        "margins": {},
        "config": {
            "seed": 0, "ratio": 0.2, "model": model, "protect": {"first": 0, "last": 0}, "unit": "block",
            "budget": "parameters",
        } | config,
    }  # fmt: skip


def test_the_table_names_units_that_are_no_blocks() -> None:
    shown = text_tables.results(
        [
            done([1, 4]),
            done(["b1", "a3"], unit="sublayer", budget="parameters"),
            done(["m2"], unit="mlp", budget="latency"),
            done(["a2"], unit="attention", ratio=None),
        ]
    )
    lines = [line for line in shown.splitlines() if line.strip()]
    assert text_tables.UNITS in lines[0]
    assert lines[2].split()[:6] == ["m", "perplexity", "greedy", "0.2", "1", "4"]
    assert "m perplexity greedy 0.2 sublayer  " in shown
    assert "m perplexity greedy 0.2 mlp by latency  " in shown
    assert "m perplexity greedy k=1 attention  " in shown
    assert "  b1 a3  " in shown


@pytest.mark.parametrize("changed", [True, False])
def test_the_healed_row_names_its_mask_if_it_is_not_the_one_of_the_search(changed: bool) -> None:
    mask = {"n_blocks": 6, "dropped": [0, 5] if changed else [1, 4]}
    result: Any = {
        "mask": {"n_blocks": 6, "dropped": [1, 4]},
        "heal": {"selection": {"mask": mask, "changed": changed}, "best_step": 8},
        "evaluation": {which: {"ppl/heldout": 9.0} for which in ("dense", "pruned", "healed")},
    }
    rows = [line.strip().split("  ")[0] for line in guide.table(result).splitlines()[-3:]]
    assert rows == ["dense", "pruned", "healed (without 0 5)" if changed else "healed"]


def test_a_difference_between_slow_rates_shows() -> None:
    numbers = {0.0: "0.00", 0.0499: "0.0499", 1.2: "1.20", 26.14: "26.1", 999.4: "999", 1133.0: "1,133"}
    assert {value: rate_text(value) for value in numbers} == numbers
