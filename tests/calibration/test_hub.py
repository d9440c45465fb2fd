from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from unittest.mock import Mock

import datasets
import pytest

from pruning.calibration.items import Items
from pruning.calibration.text import Text
from pruning.core.errors import InputError, UnreachableError
from tests.helpers.tokens import Numbers


class Stream:
    """An endless stand-in for what `datasets.load_dataset(streaming=True)` returns."""

    def __init__(self) -> None:
        self.shuffled: dict[str, int] = {}
        self.read = 0

    def shuffle(self, **settings: int) -> Stream:
        self.shuffled = settings
        return self

    def __iter__(self) -> Iterator[dict[str, str]]:
        for self.read in count(1):
            yield {"text": f"{2 * self.read} {2 * self.read + 1}"}


def test_a_stream_is_shuffled_with_the_seed_and_read_as_far_as_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = Stream()
    load = Mock(return_value=stream)
    monkeypatch.setattr(datasets, "load_dataset", load)
    text = Text("hub", 3, 10, seed=7, path="allenai/c4", name="en", revision="abc", stream=True)
    samples = text.draw(Numbers())
    load.assert_called_once_with("allenai/c4", "en", split="train", revision="abc", streaming=True)
    assert stream.shuffled["seed"] == 7
    assert [row.input_ids[0] for row in samples.rows] == [2, 12, 22], "the first windows, in order"
    assert stream.read < 200


def test_windows_of_a_whole_data_set_are_drawn_without_shuffling(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [{"body": " ".join(map(str, range(i, i + 10)))} for i in range(0, 200, 10)]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: records)
    draws = [Text("hub", 3, 10, seed, path="a/b", column="body").draw(Numbers()).rows for seed in (0, 1)]
    assert draws[0] != draws[1]
    with pytest.raises(InputError, match=r"a/b has no column 'text': set calibration\.column"):
        Text("hub", 3, 10, 0, path="a/b").draw(Numbers())


@pytest.mark.parametrize("error", [ConnectionError, ValueError, RuntimeError, FileNotFoundError])
@pytest.mark.parametrize(
    ("source", "advice"),
    [
        (Text("hub", 1, 8, 0, path="a/b", name="en"), r"a/b/en cannot be read .*calibration=text_file"),
        (Items("commonsense170k", 1, 0, path="a/b"), r"a/b cannot be read .*calibration\.path=FILE"),
    ],
)
def test_an_unreachable_data_set_is_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception], source: Text | Items, advice: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error("no route\nto the host")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(UnreachableError, match=advice) as caught:
        source.draw(Numbers())
    assert "(no route)" in str(caught.value)
    assert "\n" not in str(caught.value)
