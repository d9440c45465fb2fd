"""What tests of lm-eval's tasks share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.evaluations import with_end


@pytest.fixture(scope="module")
def without_environment() -> Iterator[None]:
    """Replace lm-eval's description of the machine, which takes a second per call."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lm_eval.evaluator.add_env_info", lambda results: results.update(lm_eval_version="0"))
        yield


@pytest.fixture(scope="module")
def folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, whose tokenizer has an end-of-text token."""
    return with_end(model_folder, tmp_path_factory.mktemp("complete") / "model")
