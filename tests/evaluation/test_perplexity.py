"""Perplexity on corpora equals the plain loop; `eval=full`; every evaluation as the command line composes it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from pruning.calibration.samples import Row
from pruning.config.app import composed
from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.core.scoring import Estimate
from pruning.evaluation import lm_eval_tasks
from pruning.evaluation.corpora import Corpus, CorpusPerplexity, strided
from pruning.evaluation.lm_eval_tasks import TextAndTasks, Zeroshot
from pruning.models.sublayers import masked
from tests.conftest import N_BLOCKS
from tests.helpers.evaluations import forward_of, measured, own_tasks, tokenizer_of, with_end
from tests.helpers.tokens import Numbers, written

PROSE = "The quick brown fox jumps over the lazy dog, and then it sleeps. " * 9


def sliding_windows(model: Any, ids: list[int], window: int, stride: int) -> float:
    """The loop of the transformers guide "Perplexity of fixed-length models", with exact counts of scored tokens."""
    total, count, previous = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + window, len(ids))
        input_ids = torch.tensor([ids[begin:end]])
        targets = input_ids.clone()
        targets[:, : -(end - previous)] = -100
        scored = int((targets[:, 1:] != -100).sum())  # labels are shifted within the model
        if scored:
            with torch.no_grad():
                total += float(model(input_ids, labels=targets).loss) * scored
            count += scored
        previous = end
        if end == len(ids):
            break
    return math.exp(total / count)


@pytest.mark.parametrize(("window", "stride"), [(32, None), (32, 32), (32, 8), (48, 31), (1000, 500)])
@pytest.mark.parametrize("dropped", [(), (1, 4)], ids=str)
def test_perplexity_equals_the_plain_loop(
    model_folder: Path, tmp_path: Path, window: int, stride: int | None, dropped: tuple[int, ...]
) -> None:
    path, tokenizer = written(tmp_path, "prose.txt", PROSE), tokenizer_of(model_folder)
    corpus = Corpus("file", str(path), window=window, stride=stride)
    found = measured(CorpusPerplexity({"prose": corpus}), model_folder, Mask(N_BLOCKS, dropped))
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    ids = tokenizer(PROSE).input_ids
    with masked(model, Mask(N_BLOCKS, dropped)):
        expected = sliding_windows(model, ids, window, stride or window)
    assert found.metrics["ppl/prose"] == pytest.approx(expected, rel=1e-5)
    rows = corpus.draw(tokenizer, "x").rows
    assert found.how["tokens_scored"] == sum(row.span[1] - row.span[0] for row in rows)
    assert found.how["corpus"]["stride"] == stride


@given(st.integers(1, 60), st.integers(8, 20), st.integers(1, 20), st.sampled_from([(), (99,)]))
def test_every_token_counts_once(length: int, window: int, stride: int, first: tuple[int, ...]) -> None:
    ids = list(range(length))
    rows = list(strided(ids, first, window, min(stride, window)))
    scored = [row.input_ids[t] for row in rows for t in range(*row.span)]
    assert scored == sorted(set(scored))
    assert all(len(row.input_ids) <= window and row.input_ids[: len(first)] == first for row in rows)
    missing = set(ids) - set(scored)
    # If no special token comes before it, a window's first token cannot be predicted.
    beginnings = set(range(0, length, min(stride, window - len(first))))
    assert missing <= (set() if first else beginnings)
    if stride < window - len(first):
        assert missing <= ({0} if not first else set())


@pytest.mark.parametrize(
    ("start", "tail", "expected"),
    [
        ("window", True, [(99, 1, 2, 3), (99, 4, 5, 6), (99, 7, 8)]),
        ("text", True, [(99, 1, 2, 3), (4, 5, 6, 7)]),  # the last token alone has nothing before it
        ("none", True, [(1, 2, 3, 4), (5, 6, 7, 8)]),
        ("window", False, [(99, 1, 2, 3), (99, 4, 5, 6)]),
        ("text", False, [(99, 1, 2, 3), (4, 5, 6, 7)]),
    ],
)
def test_where_the_start_token_stands_and_whether_a_short_window_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, start: str, tail: bool, expected: list[tuple[int, ...]]
) -> None:
    monkeypatch.setattr("pruning.evaluation.corpora.SHORTEST", 4)
    monkeypatch.setattr("pruning.evaluation.corpora.start_tokens", lambda _: (99,))
    path = written(tmp_path, "numbers.txt", "1 2 3 4 5 6 7 8")
    corpus = Corpus("file", str(path), window=4, start=start, tail=tail)
    corpus.check("here")
    assert [row.input_ids for row in corpus.draw(Numbers(), "here").rows] == expected


def test_the_standard_error_is_over_windows(model_folder: Path, tmp_path: Path) -> None:
    forward, tokenizer = forward_of(model_folder), tokenizer_of(model_folder)
    path = written(tmp_path, "prose.txt", PROSE)
    evaluation = CorpusPerplexity({"prose": Corpus("file", str(path), window=32)})
    (samples,) = evaluation.data(tokenizer).values()
    metrics = evaluation.measure(forward, "ppl/prose", samples, Mask(N_BLOCKS)).metrics
    ((_, logliks, _),) = forward.loglikelihoods(samples.rows, [Mask(N_BLOCKS)])
    tokens = [row.span[1] - row.span[0] for row in samples.rows]
    means = [-loglik / count for loglik, count in zip(logliks, tokens, strict=True)]
    error = Estimate(tuple(map(float, tokens)), (0,) * len(tokens)).error(means)
    assert metrics["ppl/prose/stderr"] == pytest.approx(metrics["ppl/prose"] * error)


NUMBERS = [{"text": "1 2 3 4 5"}, {"text": "6 7 8"}, {"text": ""}, {"text": "9 10 11 12 13 14 15 16 17 18"}]


def drawn(tmp_path: Path, tokenizer: Any = None, **settings: Any) -> list[Row]:
    path = written(tmp_path, "numbers.jsonl", *NUMBERS)
    return list(Corpus("file", str(path), **settings).draw(tokenizer or Numbers(), "eval.corpora.x").rows)


def test_documents_are_joined_or_cut_separately(tmp_path: Path) -> None:
    joined = drawn(tmp_path, window=8, join=" 99 ")
    assert [row.input_ids for row in joined] == [
        (1, 2, 3, 4, 5, 99, 6, 7),
        (8, 99, 99, 9, 10, 11, 12, 13),
        (14, 15, 16, 17, 18),
    ]
    alone = drawn(tmp_path, window=8, join=None)
    assert [row.input_ids[0] for row in alone] == [1, 6, 9, 17]
    assert all(row.span == (1, len(row.input_ids)) for row in alone)


def test_documents_and_windows_can_be_bounded(tmp_path: Path) -> None:
    assert len(drawn(tmp_path, window=8, join=None, documents=2)) == 2
    assert len(drawn(tmp_path, window=8, join=" ", windows=1)) == 1
    path = written(tmp_path, "numbers.jsonl", *NUMBERS)
    corpora = {"x": Corpus("file", str(path), window=8, join=" ", windows=2)}
    assert CorpusPerplexity(corpora).data(Numbers())["ppl/x"].count == 2
    assert CorpusPerplexity(corpora, limit=1).data(Numbers())["ppl/x"].count == 1


def test_hub_documents_keep_their_order_and_the_empty_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: dict[str, Any] = {}

    def loaded(*path: Any, **options: Any) -> list[dict[str, str]]:
        asked.update(options, path=path)
        return NUMBERS

    monkeypatch.setattr(datasets, "load_dataset", loaded)
    rows = (
        Corpus(path="a", name="b", split="c", stream=True, join=" 99 ", documents=3).draw(Numbers(), "x").rows
    )
    assert [row.input_ids for row in rows] == [(1, 2, 3, 4, 5, 99, 6, 7, 8, 99)]
    assert asked == {"path": ("a", "b"), "split": "c", "revision": None, "streaming": True}
    with pytest.raises(InputError, match=r"x\.column=words: a/b/c "):
        Corpus(path="a", name="b", split="c", column="words").draw(Numbers(), "eval.corpora.x")


def built(*words: str) -> Any:
    return instantiate(composed(list(words)).eval, _convert_="all")


def test_the_paper_s_corpora_and_tasks_are_the_default_and_share_the_limit() -> None:
    evaluation = built("eval=full", "eval.limit=7", "eval.perplexity.corpora.c4.windows=9")
    assert isinstance(evaluation, TextAndTasks)
    assert (evaluation.limit, evaluation.perplexity.limit, evaluation.zeroshot.limit) == (7, 7, 7)
    assert evaluation.perplexity.corpora["c4"].windows == 9
    assert set(evaluation.perplexity.corpora) == {"wikitext2", "c4", "lambada"}
    assert evaluation.perplexity.corpora["wikitext2"].join == "\n\n"
    assert len(evaluation.zeroshot.tasks) == 6
    assert built("eval=full", "eval.allow_overlap=true").allow_overlap


def test_both_kinds_of_metrics(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = own_tasks(tmp_path)
    monkeypatch.setattr(lm_eval_tasks, "manager", lambda: index)
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: results.update(lm_eval_version="0"))
    folder = with_end(model_folder, tmp_path / "model")
    corpus = Corpus("file", str(written(tmp_path, "prose.txt", PROSE)), window=32)
    both = TextAndTasks(CorpusPerplexity({"prose": corpus}, 2), Zeroshot(["normed", "plain"], 3), 2)
    data = both.data(tokenizer_of(folder))
    assert list(data) == ["ppl/prose", "acc/normed", "acc/plain"]
    forward, mask = forward_of(folder), Mask(N_BLOCKS, (1,))
    found = {name: both.measure(forward, name, metric_data, mask) for name, metric_data in data.items()}
    assert all(name in measurement.metrics for name, measurement in found.items())
    assert (found["ppl/prose"].how["windows"], found["acc/plain"].how["items"]) == (2, 3)
