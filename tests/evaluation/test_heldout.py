"""The default evaluation, how its measurements are kept, and that it shares nothing with a calibration."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from pruning.calibration.items import Items
from pruning.calibration.samples import Row, Samples
from pruning.calibration.text import Text
from pruning.core.errors import InputError, LossError
from pruning.core.mask import Mask
from pruning.core.records import TERMS
from pruning.engine.forward import Forward
from pruning.evaluation.heldout import Heldout
from pruning.evaluation.text_overlap import check_disjoint
from pruning.models.handle import Model
from pruning.models.output_maps import replaced
from pruning.runs.measurements import Evaluator, averaged, merged
from tests.helpers.evaluations import tokenizer_of

N = 4
TEXT = Samples("text", "t", (Row((1, 2, 3), (1, 3)), Row((4, 5, 6, 7, 8), (1, 5))), 0)
ITEMS = Samples(
    "items",
    "i",
    (
        Row((1, 2), (1, 2), 0, 0, True),
        Row((1, 3, 4), (1, 3), 0, 1, False),
        Row((5, 6), (1, 2), 1, 0, False),
        Row((5, 7, 8), (1, 3), 1, 1, True),
        Row((9, 1), (1, 2), 2, 0, True),
        Row((9, 2), (1, 2), 2, 1, False),
    ),
    0,
    frozenset("abc"),
)
DATA = {"ppl/heldout": TEXT, "acc/heldout": ITEMS}


class Counting:
    """A Forward with given log-likelihoods; `asked` lists the masks of its calls."""

    bounds = False

    def __init__(
        self, text: Sequence[float] = (-2.0, -8.0), items: Sequence[float] = (-1, -4, -3, -4, -2, -1)
    ) -> None:
        self.text, self.items = list(text), list(map(float, items))
        self.asked: list[Mask] = []

    def watched(self, _: Callable[[int, int], None]) -> Counting:
        return self

    def beside(self, _: Iterable[Mask]) -> Counting:
        return self

    def loglikelihoods(
        self, rows: Sequence[Row], masks: Iterable[Mask]
    ) -> Iterator[tuple[Mask, list[float], float]]:
        for mask in masks:
            self.asked.append(mask)
            yield mask, self.text if rows == TEXT.rows else self.items, 0.1


def evaluator(folder: Path, forward: Counting) -> Evaluator:
    folders = {name: folder / name.replace("/", "-") for name in DATA}
    return Evaluator(Heldout(), DATA, cast(Forward, forward), folders)


def test_perplexity_weighs_tokens_equally(tmp_path: Path) -> None:
    metrics = evaluator(tmp_path, Counting())(Mask(N)).metrics
    loss = (2 + 8) / (2 + 4)  # not the mean of 2/2 and 8/4
    assert metrics["ppl/heldout"] == pytest.approx(math.exp(loss))
    centre = 10 / 6
    spread = math.sqrt(((2 * (1 - centre)) ** 2 + (4 * (2 - centre)) ** 2) / 6**2 * 2)  # linearised, ddof 1
    assert metrics["ppl/heldout/stderr"] == pytest.approx(math.exp(loss) * spread)


def test_accuracy_compares_means_over_an_answers_tokens(tmp_path: Path) -> None:
    metrics = evaluator(tmp_path, Counting())(Mask(N)).metrics
    hits = [1.0, 1.0, 0.0]  # -1 against -4/2; -4/2 against -3, though -3 > -4; -2 against -1
    assert metrics["acc/heldout"] == pytest.approx(2 / 3)
    assert metrics["acc/heldout/stderr"] == pytest.approx(np.std(hits, ddof=1) / math.sqrt(3))


def test_a_mask_is_measured_once_even_by_another_evaluator(tmp_path: Path) -> None:
    forward, other = Counting(), Counting(text=(0.0, 0.0))
    first = evaluator(tmp_path, forward)
    metrics = first(Mask(N, (1, 2)))
    assert len(forward.asked) == 2, "once for the text, once for the items"
    assert first(Mask(N, (2, 1))) == metrics
    assert evaluator(tmp_path, other)(Mask(N, (1, 2))) == metrics
    assert len(forward.asked) == 2
    assert other.asked == []


class Slow(Counting):
    """A slow Forward, so that another one starts before it ends."""

    def loglikelihoods(
        self, rows: Sequence[Row], masks: Iterable[Mask]
    ) -> Iterator[tuple[Mask, list[float], float]]:
        time.sleep(0.3)
        yield from super().loglikelihoods(rows, masks)


def test_two_evaluators_that_need_a_measurement_at_once_make_it_once(tmp_path: Path) -> None:
    forwards = [Slow(), Slow()]
    with ThreadPoolExecutor() as pool:
        jobs = [pool.submit(evaluator(tmp_path, forward), Mask(N, (1,))) for forward in forwards]
    first, second = (job.result() for job in jobs)
    assert first == second
    assert sum(len(forward.asked) for forward in forwards) == len(DATA)


def test_the_terms_of_a_measurement_give_its_metrics(tmp_path: Path) -> None:
    evaluate = evaluator(tmp_path, Counting())
    metrics = evaluate(mask := Mask(N, (1,))).metrics
    terms = {
        name: json.loads((path := evaluate.path(name, mask)).with_name(f"{path.stem}.{TERMS}").read_text())
        for name in DATA
    }
    (text,) = (name for name in DATA if name.startswith("ppl/"))
    (items,) = (name for name in DATA if name.startswith("acc/"))
    losses, tokens = terms[text]["losses"], terms[text]["tokens"]
    total = sum(loss * count for loss, count in zip(losses, tokens, strict=True))
    assert math.exp(total / sum(tokens)) == pytest.approx(metrics[text])
    pairs = zip(terms[items]["loglikelihoods"], terms[items]["right"], strict=True)
    hits = [scores.index(max(scores)) == right for scores, right in pairs]
    assert sum(hits) / len(hits) == pytest.approx(metrics[items])


def test_a_measurement_that_is_not_finite_is_an_error_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(LossError, match=r"blocks \[2\] removed"):
        evaluator(tmp_path, Counting(text=(math.nan, -1.0)))(Mask(N, (2,)))
    assert list(tmp_path.rglob("*.json")) == []


def test_what_was_measured_before_a_failure_is_kept(tmp_path: Path) -> None:
    broken = Counting(items=[])  # no log-likelihoods, though six are needed
    with pytest.raises(ValueError):
        evaluator(tmp_path, broken)(Mask(N, (2,)))
    mended = Counting()
    assert set(evaluator(tmp_path, mended)(Mask(N, (2,))).how) == set(DATA)
    assert len(mended.asked) == 1, "the text was measured already"


def test_an_evaluation_adds_to_the_metrics_of_others() -> None:
    first = {"dense": {"ppl/a": 1.0}, "pruned": {"ppl/a": 2.0}, "data": {"ppl/a": "x"}, "how": {"ppl/a": {}}}
    second = {"dense": {"acc/b": 0.5}, "pruned": {"acc/b": 0.4}, "data": {"acc/b": "y"}, "how": {"acc/b": {}}}
    both = merged(first, second)
    assert both["pruned"] == {"ppl/a": 2.0, "acc/b": 0.4}
    assert both["data"] == {"ppl/a": "x", "acc/b": "y"}
    again = merged(
        both, {"dense": {}, "pruned": {"ppl/a": 3.0}, "data": {"ppl/a": "z"}, "speed": {"runs": []}}
    )
    assert again["pruned"] == {"ppl/a": 3.0, "acc/b": 0.4}, "the newest value of a metric is kept"
    assert again["data"]["ppl/a"] == "z"
    assert again["dense"] == both["dense"]
    assert again["speed"] == {"runs": []}
    assert merged({}, first) == first


def test_the_mean_accuracy_weighs_tasks_equally() -> None:
    metrics = {"acc/a": 0.2, "acc/a/stderr": 0.03, "acc/b": 0.6, "acc/b/stderr": 0.04, "ppl/c": 9.0}
    assert averaged(metrics) == pytest.approx({"acc/mean": 0.4, "acc/mean/stderr": 0.05 / 2})
    assert averaged({"acc/a": 0.2, "acc/a/stderr": 0.03}) == {}


def test_heldout_data_shares_nothing_with_the_embedded_calibration(tokenizer: Any) -> None:
    data = Heldout(samples=20, length=64, items=100, seed=1).data(tokenizer)
    check_disjoint(Text("pydoc", 40, 64, 1).draw(tokenizer), data)
    check_disjoint(Items("commonsense", 100, 1).draw(tokenizer), data)


@pytest.mark.parametrize(
    ("calibration", "metric", "share"),
    [
        (Text("pydoc", 40, 48, 1, part="heldout"), "ppl/heldout", r"\d+ of 20 windows"),
        (Items("commonsense", 60, 1, part="heldout"), "acc/heldout", r"\d+ of 100 items"),
    ],
)
def test_calibration_on_the_evaluation_data_is_refused(
    tokenizer: Any, calibration: Any, metric: str, share: str
) -> None:
    data = Heldout(samples=20, length=64, items=100).data(tokenizer)
    samples, other = calibration.draw(tokenizer), data[metric]
    with pytest.raises(InputError, match=r"calibration\.seed") as caught:
        check_disjoint(samples, data)
    for one in (samples, other):
        assert f"({one.source}, {one.sha256[:12]})" in str(caught.value)
    assert f"{metric} (" in str(caught.value)
    assert re.search(share, str(caught.value))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_masks_that_are_measured_together_get_their_own_numbers_and_share_their_walk(
    model_folder: Path, tmp_path: Path, dtype: str
) -> None:
    """The dense model and a mask run their common blocks once, and each value equals that of a walk alone."""
    data = Heldout(samples=4, length=64, items=12).data(tokenizer_of(model_folder))
    model, dense = Model("tiny", "local", str(model_folder), dtype=dtype).load(), Mask(6)
    mask = Mask(6, (3, 4))

    def measured(folder: str, *beside: Mask) -> tuple[list[Any], Forward]:
        folders = {name: tmp_path / folder / name.replace("/", "-") for name in data}
        evaluate = Evaluator(Heldout(), data, Forward(model), folders)
        return [evaluate(dense, beside).metrics, evaluate(mask).metrics], evaluate.forward

    together, shared = measured("together", mask)
    alone, apart = measured("alone")
    assert together == alone
    for path in (tmp_path / "alone").rglob("*.json"):
        assert (
            path.read_bytes() == (tmp_path / "together" / path.relative_to(tmp_path / "alone")).read_bytes()
        )
    saved = apart.cost.block_forwards - shared.cost.block_forwards
    assert saved == pytest.approx(2 * 3), "three blocks, on text and on items"
    assert not shared.beginnings.nbytes(), "no states are kept"
    evaluate = Evaluator(Heldout(), data, Forward(model), {n: tmp_path / "together" / n for n in data})
    evaluate(dense, [mask])
    before = evaluate.forward.cost.block_forwards
    evaluate(mask)
    assert evaluate.forward.cost.block_forwards == before, "a mask is not walked twice"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_changed_weights_are_measured_from_the_states_in_front_of_them(
    model_folder: Path, dtype: str
) -> None:
    model, mask = Model("tiny", "local", str(model_folder), dtype=dtype).load(), Mask(6, (3, 4))
    forward, name = Forward(model), "model.layers.2.mlp.down_proj.weight"
    forward.keep = 2
    for samples in Heldout(samples=4, length=64, items=12).data(tokenizer_of(model_folder)).values():
        list(forward.beside([Mask(6), mask]).loglikelihoods(samples.rows, [mask]))
        with replaced(model.module, {name: model.module.get_parameter(name).data * 1.5}):
            found, alone = forward.fresh(), Forward(model)
            before = found.cost.block_forwards
            ((_, values, _),), ((_, expected, _),) = (
                one.loglikelihoods(samples.rows, [mask]) for one in (found, alone)
            )
            assert values == expected
            assert found.cost.block_forwards - before == pytest.approx(alone.cost.block_forwards - 2)
        ((_, plain, _),) = forward.loglikelihoods(samples.rows, [mask])
        assert values != plain
