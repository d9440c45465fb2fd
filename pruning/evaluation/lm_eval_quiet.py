"""Keep lm-eval from printing what concerns nobody here."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Silence lm-eval's warnings, which concern intended uses, and the progress bars of its short steps."""
    import lm_eval.api.model
    import lm_eval.api.task
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    logger, silent = logging.getLogger("lm_eval"), are_progress_bars_disabled()
    level, bar = logger.level, lm_eval.api.task.tqdm
    logger.setLevel(logging.ERROR)
    disable_progress_bars()
    lm_eval.api.task.tqdm = lm_eval.api.model.tqdm = lambda items, **_: items
    try:
        yield
    finally:
        lm_eval.api.task.tqdm = lm_eval.api.model.tqdm = bar
        logger.setLevel(level)
        if not silent:
            enable_progress_bars()


@contextmanager
def without_git() -> Iterator[None]:
    """Keep lm-eval from asking git about the current folder; outside a checkout, git prints an error."""
    import lm_eval.evaluator

    saved = lm_eval.evaluator.get_git_commit_hash
    lm_eval.evaluator.get_git_commit_hash = lambda: None
    try:
        yield
    finally:
        lm_eval.evaluator.get_git_commit_hash = saved
