"""The scores of other cells: what a store finds, also later, equals a plain reading of all lines."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.core.mask import Mask
from pruning.core.scoring import Score, read_trace
from pruning.search.journal import Store

N = 5
COUNT = 3  # samples of a full score


def line(dropped: list[int], terms: int, value: float) -> str:
    data: dict[str, Any] = {"dropped": dropped, "loss": value, "samples": [value] * terms, "seconds": 1.0}
    return json.dumps(data | ({"of": COUNT} if terms < COUNT else {}))


def plainly(results: Path, masks: list[Mask]) -> list[Score]:
    """For each mask the first score over the most samples, from every line of every other cell."""
    best: dict[Mask, Score] = {}
    for pointer in sorted((results / "scores" / "key").iterdir()):
        for entry in read_trace(results / pointer.name / "trace.jsonl"):
            if pointer.name != "own" and entry.line is not None and max(entry.line["dropped"], default=0) < N:
                score = Score.from_line(entry.line | {"seconds": 0.0}, N)
                if score.exceeds(best.get(score.mask)):
                    best[score.mask] = score
    return [best[mask] for mask in masks if mask in best]


def written(results: Path, cells: dict[str, list[str]]) -> None:
    (results / "scores" / "key").mkdir(parents=True, exist_ok=True)
    for name, lines in cells.items():
        (results / "scores" / "key" / name).touch()
        (results / name).mkdir(exist_ok=True)
        with (results / name / "trace.jsonl").open("a") as stream:
            stream.writelines(f"{text}\n" for text in lines)


lines = st.one_of(
    st.builds(
        line, st.lists(st.integers(0, N), max_size=3), st.integers(1, COUNT), st.floats(0, 9, allow_nan=False)
    ),
    st.sampled_from(["{", "", '{"loss": 1.0}', '{"dropped": [1], "loss": NaN, "samples": [], "seconds": 1}']),
    st.just('{"dropped": [2, 1], "loss": 2.0, "samples": [2.0, 2.0, 2.0], "seconds": 1.0}'),
)
stores = st.dictionaries(st.sampled_from(["a", "b", "c", "own"]), st.lists(lines, max_size=6))


@settings(deadline=None, max_examples=150)
@given(stores, stores)
def test_what_is_found_is_what_a_plain_reading_finds(
    first: dict[str, list[str]], later: dict[str, list[str]]
) -> None:
    masks = [Mask(N, blocks) for blocks in ((), (0,), (1,), (1, 2), (0, 3), (2, 3, 4))]
    with tempfile.TemporaryDirectory() as folder:
        results, store = Path(folder), Store(Path(folder), "key", "own", N)
        written(results, first)
        assert store.find(masks) == plainly(results, masks)
        before = {mask.dropped: len(score.samples) for mask in masks for score in store.find([mask])}
        written(results, later)
        found = {score.mask.dropped: score for score in store.find(masks)}
        expected = {score.mask.dropped: score for score in plainly(results, masks)}
        assert found.keys() == expected.keys()
        for blocks, score in expected.items():
            assert len(found[blocks].samples) == len(score.samples) >= before.get(blocks, 0)
