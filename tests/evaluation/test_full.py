"""`eval=full`, and every evaluation as the command line composes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pruning.config.app import composed
from pruning.core.mask import Mask
from pruning.evaluation.corpora import Corpus, CorpusPerplexity
from pruning.evaluation.lm_eval_tasks import Full, Zeroshot
from tests.conftest import N_BLOCKS
from tests.helpers.evaluations import forward_of, own_tasks, tokenizer_of, with_end
from tests.helpers.tokens import written


def built(*words: str) -> Any:
    from hydra.utils import instantiate

    return instantiate(composed(list(words)).eval, _convert_="all")


def test_both_are_composed_and_share_the_limit() -> None:
    evaluation = built(
        "eval=full", "eval.limit=7", "eval.zeroshot.batch_size=4", "eval.perplexity.corpora.c4.windows=9"
    )
    assert isinstance(evaluation, Full)
    assert (evaluation.limit, evaluation.perplexity.limit, evaluation.zeroshot.limit) == (7, 7, 7)
    assert evaluation.zeroshot.batch_size == 4
    assert evaluation.perplexity.corpora["c4"].windows == 9
    assert set(evaluation.perplexity.corpora) == {"wikitext2", "c4", "lambada"}
    assert len(evaluation.zeroshot.tasks) == 6
    assert not evaluation.allow_overlap
    assert built("eval=full", "eval.allow_overlap=true").allow_overlap


def test_corpora_can_be_chosen_and_added() -> None:
    evaluation = built(
        "eval=perplexity", "~eval.corpora.c4", "+eval.corpora.mine={source: file, path: x.txt, window: 64}"
    )
    assert set(evaluation.corpora) == {"wikitext2", "lambada", "mine"}
    assert evaluation.corpora["mine"] == Corpus("file", "x.txt", window=64)
    assert built("eval=zeroshot", "eval.tasks=[piqa]").tasks == ["piqa"]


@pytest.mark.parametrize(
    "name", ["heldout", "perplexity", "zeroshot", "full", "speed", "generation", "reasoning"]
)
def test_every_evaluation_can_be_composed_with_its_defaults(name: str) -> None:
    assert built(f"eval={name}").allow_overlap is False


def test_both_kinds_of_metrics(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pruning.evaluation import lm_eval_tasks

    index = own_tasks(tmp_path)
    monkeypatch.setattr(lm_eval_tasks, "manager", lambda: index)
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: results.update(lm_eval_version="0"))
    folder = with_end(model_folder, tmp_path / "model")
    corpus = Corpus("file", str(written(tmp_path, "prose.txt", "The quick brown fox. " * 30)), window=32)
    both = Full(CorpusPerplexity({"prose": corpus}, 2), Zeroshot(["normed", "plain"], 3), 2)
    data = both.data(tokenizer_of(folder))
    assert list(data) == ["ppl/prose", "acc/normed", "acc/plain"]
    forward, mask = forward_of(folder), Mask(N_BLOCKS, (1,))
    measured = {name: both.measure(forward, name, metric_data, mask) for name, metric_data in data.items()}
    assert all(name in measurement.metrics for name, measurement in measured.items())
    assert (measured["ppl/prose"].how["windows"], measured["acc/plain"].how["items"]) == (2, 3)
