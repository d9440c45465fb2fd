"""`eval=full`, and every evaluation as the command line composes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pruning.core.mask import Mask
from pruning.evaluation.corpus import Corpus
from pruning.evaluation.full import Full
from pruning.evaluation.perplexity import CorpusPerplexity
from pruning.evaluation.zeroshot import Zeroshot
from pruning.hydra_app.replay_command import composed
from tests.conftest import N_BLOCKS
from tests.helpers.evaluations import forward_of, own_tasks, tokenizer_of, with_end
from tests.helpers.tokens import written


def built(*words: str) -> Any:
    from hydra.utils import instantiate

    return instantiate(composed(list(words)).eval, _convert_="all")


def test_both_are_composed_and_share_the_limit() -> None:
    found = built(
        "eval=full", "eval.limit=7", "eval.zeroshot.batch_size=4", "eval.perplexity.corpora.c4.windows=9"
    )
    assert isinstance(found, Full)
    assert (found.limit, found.perplexity.limit, found.zeroshot.limit) == (7, 7, 7)
    assert found.zeroshot.batch_size == 4
    assert found.perplexity.corpora["c4"].windows == 9
    assert set(found.perplexity.corpora) == {"wikitext2", "c4", "lambada"}
    assert len(found.zeroshot.tasks) == 6
    assert not found.allow_overlap
    assert built("eval=full", "eval.allow_overlap=true").allow_overlap


def test_corpora_can_be_chosen_and_added() -> None:
    found = built(
        "eval=perplexity", "~eval.corpora.c4", "+eval.corpora.mine={source: file, path: x.txt, window: 64}"
    )
    assert set(found.corpora) == {"wikitext2", "lambada", "mine"}
    assert found.corpora["mine"] == Corpus("file", "x.txt", window=64)
    assert built("eval=zeroshot", "eval.tasks=[piqa]").tasks == ["piqa"]


@pytest.mark.parametrize("name", ["heldout", "perplexity", "zeroshot", "full", "speed"])
def test_every_evaluation_is_composed_as_it_stands(name: str) -> None:
    assert built(f"eval={name}").allow_overlap is False


def test_both_kinds_of_metrics(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pruning.evaluation import zeroshot

    index = own_tasks(tmp_path)
    monkeypatch.setattr(zeroshot, "manager", lambda: index)
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda found: found.update(lm_eval_version="0"))
    folder = with_end(model_folder, tmp_path / "model")
    corpus = Corpus("file", str(written(tmp_path, "prose.txt", "The quick brown fox. " * 30)), window=32)
    both = Full(CorpusPerplexity({"prose": corpus}, 2), Zeroshot(["normed", "plain"], 3), 2)
    data = both.data(tokenizer_of(folder))
    assert list(data) == ["ppl/prose", "acc/normed", "acc/plain"]
    forward, mask = forward_of(folder), Mask(N_BLOCKS, (1,))
    found = {name: both.measure(forward, name, one, mask) for name, one in data.items()}
    assert all(name in one.metrics for name, one in found.items())
    assert (found["ppl/prose"].how["windows"], found["acc/plain"].how["items"]) == (2, 3)
