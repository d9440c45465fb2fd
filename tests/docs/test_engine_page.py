"""The tables of docs/engine.md, from rows of the benchmarks."""

from __future__ import annotations

from docs import described


def test_the_sentence_has_the_lowest_and_the_highest_ratio_of_each_baseline() -> None:
    row = {"work": "greedy", "baseline_cpu_seconds": 30.0, "cpu_seconds": 10.0, "ratio": 3.0}
    row |= {"tokens_ratio": 2.0, "at_peak": 1.5, "masks_equal": True, "device": "Intel Xeon"}
    row |= {"peak_gflops": {"bfloat16": 1000, "float32": 180}}
    slower = row | {"ratio": 2.0, "peak_gflops": {"bfloat16": 1200, "float32": 180}}
    published = row | {"work": f"{described.PUBLISHED}, exact", "ratio": 5.0, "masks_equal": False}
    said, table = described.written([row, slower, published]).split("\n\n")
    assert said == (
        "On one thread of an Intel Xeon (1,000 to 1,200 GFLOP/s in bfloat16, 180 GFLOP/s in float32 in one large "
        "product), the engine uses 2.0 to 3.0 times less CPU time than one masked forward pass per mask, and 5.0 "
        "to 5.0 times less than SLEB's way of scoring:"
    )
    assert table.splitlines()[2] == "| greedy | 30.0 | 10.0 | 3.00x | 2.00x fewer | 1.50 | yes |"
    assert table.splitlines()[4].endswith("| no |")
