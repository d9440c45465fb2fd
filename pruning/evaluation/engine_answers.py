"""Answer lm-eval's multiple-choice requests with the engine instead of lm-eval's own model: `eval.scorer=engine`.

The answers to a question share its prompt, and only their tokens are projected to the vocabulary, which takes a
fraction of lm-eval's time. Logits are normalised in float32; lm-eval's model does so in the model's own precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pruning.calibration.items import encode_pair
from pruning.calibration.samples import Row
from pruning.core.errors import InputError, unknown

if TYPE_CHECKING:
    from pruning.core.mask import Mask
    from pruning.engine.forward import Forward

SCORERS = ("lm_eval", "engine")
COUNTED = {"acc", "acc_norm"}  # the metrics of lm-eval that need nothing but log-likelihoods


def check_scorer(scorer: str) -> None:
    """Raise InputError if there is no such scorer."""
    if scorer not in SCORERS:
        raise unknown("eval.scorer", scorer, SCORERS)


def check_countable(task: Any, source: str) -> None:
    """Raise InputError if a task of lm-eval needs more than the log-likelihoods of its choices."""
    if task.OUTPUT_TYPE != "multiple_choice" or not {*task.aggregation()} <= COUNTED:
        raise InputError(
            f"eval.scorer=engine scores multiple-choice tasks by {' and '.join(sorted(COUNTED))}, but {source} "
            f"({task.OUTPUT_TYPE}) has {', '.join(task.aggregation())}: set eval.scorer=lm_eval."
        )


def rows_of(requests: Sequence[Any], tokenizer: Any) -> tuple[Row, ...]:
    """The token rows of each document's requests; spaces at the end of a context belong to the answer, as in lm-eval.

    Raises InputError if an answer has no tokens of its own.
    """
    rows = []
    for number, request in enumerate(requests):
        for choice, (context, answer) in enumerate(request["asked"]):
            prompt = context.rstrip()
            pair = encode_pair(tokenizer, prompt, context[len(prompt) :] + answer)
            rows.append(Row(*pair, number, choice, choice == request["target"]))
    return tuple(rows)


def answers(forward: Forward, mask: Mask, rows: Sequence[Row]) -> list[tuple[float, bool]]:
    """The log-likelihood of each row under a mask, in lm-eval's form; nothing is said about greedy decoding."""
    ((_, found, _),) = forward.loglikelihoods(rows, [mask])
    return [(value, False) for value in found]
