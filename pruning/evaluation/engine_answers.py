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
from pruning.evaluation.request_lengths import prefix_token

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
    """The token rows of each document's requests, as lm-eval makes them.

    Raises InputError if an answer has no tokens of its own.
    """
    return tuple(
        Row(*_encoded(tokenizer, *asked), number, choice, choice == request["target"])
        for number, request in enumerate(requests)
        for choice, asked in enumerate(request["asked"])
    )


def _encoded(tokenizer: Any, context: str, answer: str) -> tuple[tuple[int, ...], tuple[int, int]]:
    """The token ids of a request, and the span of its answer; spaces at the end of a context belong to the answer."""
    if context:
        prompt = context.rstrip()
        return encode_pair(tokenizer, prompt, context[len(prompt) :] + answer)
    ids = tokenizer(answer, add_special_tokens=False).input_ids
    first = prefix_token(tokenizer)
    if ids[:1] != [first]:
        ids = [first, *ids]
    if len(ids) < 2:
        raise InputError(f"the answer {answer!r} has no tokens of its own after an empty prompt.")
    return tuple(ids), (1, len(ids))


def answers(forward: Forward, mask: Mask, rows: Sequence[Row]) -> list[tuple[float, bool]]:
    """The log-likelihood of each row under a mask, in lm-eval's form; nothing is said about greedy decoding."""
    ((_, found, _),) = forward.loglikelihoods(rows, [mask])
    return [(value, False) for value in found]
