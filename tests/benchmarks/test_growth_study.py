from __future__ import annotations

from benchmarks.growth import row


def test_the_exponent_compares_the_two_largest_sizes() -> None:
    costs = {"500": 9.0, "1000": 1.0, "2000": 4.0}
    assert row("work", {"1000": 2.0, "2000": 3.0}, start=1.0)[2] == "1.00"
    assert row("work", costs) == ["work", "500: 9, 1,000: 1, 2,000: 4", "2.00"]
