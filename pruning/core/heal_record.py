"""What a result says about a healing: the training of the pruned model."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired, TypedDict

FOLDER = "healed"  # in a cell's folder: one folder for each healing
RECORD = "heal.json"  # in a healing's folder: its record
EVALUATION = (
    "evaluation.json"  # there, of the healed model: a cell's result has only that of the last healing
)


class CurveRecord(TypedDict):
    """The curve of a healing in four numbers."""

    heldout_before: Annotated[
        float, "Cross entropy per token, in nats, on the held-out text before training."
    ]
    heldout_after: Annotated[float, "The same after training, with the weights that are kept."]
    first_loss: Annotated[float, "The loss of the first step."]
    last_loss: Annotated[float, "The loss of the last step."]


class RateTrial(TypedDict):
    """One learning rate that was tried; only with `heal.lr=null`."""

    lr: Annotated[float, "The learning rate."]
    tokens: Annotated[int, "Tokens of the trial."]
    heldout_before: Annotated[float | None, "The loss on the held-out text before it; null if it diverged."]
    heldout_loss: Annotated[float | None, "The loss after it, in nats per token; null if it was not finite."]
    seconds: Annotated[float, "Seconds of training."]


class TrialRecord(TypedDict):
    """One candidate in one round of the selection."""

    dropped: Annotated[list[int] | list[str], "What the candidate removes."]
    tokens: Annotated[int, "Tokens that it was healed on, those of earlier rounds included."]
    heldout_loss: Annotated[float, "Its cross entropy per token, in nats, on the held-out text after them."]
    trained: Annotated[int, "Tokens that were trained on in this round."]
    seconds: Annotated[float, "Seconds of training in this round."]


class SelectionRecord(TypedDict):
    """How the mask that is healed was selected among those of the search."""

    mask: Annotated[dict[str, Any], "The mask that was healed, in the form of `mask`."]
    changed: Annotated[bool, "Whether it is another one than the search chose."]
    losses: Annotated[
        list[float], "The loss of each candidate in the search, in the order of the first round."
    ]
    rounds: Annotated[
        list[list[TrialRecord]], "The candidates of each round; the first is the search's choice."
    ]
    tokens: Annotated[int, "Tokens that the selection trained on, all rounds together."]
    seconds: Annotated[float, "Seconds of training of all rounds."]


class HealRecord(TypedDict):
    """How the pruned model was trained."""

    folder: Annotated[str, "The folder of the weights and of the curve (`heal.jsonl`), in the cell's folder."]
    settings: Annotated[dict[str, Any], "The settings of `heal`."]
    source: Annotated[str, "Where the text comes from."]
    text_sha256: Annotated[str, "SHA-256 of the windows that were trained on or held out."]
    file_sha256: NotRequired[
        Annotated[
            str, "SHA-256 of the file `heal.path`; only with `heal.source=file`, not in older versions."
        ]
    ]
    left_out: NotRequired[
        Annotated[
            list[int],
            "Numbers of the drawn windows, the held-out ones first, that repeat a phrase of the evaluation; only of "
            "embedded text, not in older versions.",
        ]
    ]
    evaluation: NotRequired[
        Annotated[dict[str, Any], "The settings of that evaluation; only with `left_out`."]
    ]
    tokens: Annotated[int, "Tokens that were trained on."]
    steps: Annotated[int, "Steps of the optimizer."]
    epochs: Annotated[float, "How often the budget reads the text; above 1, text was repeated."]
    seconds: Annotated[float, "Seconds of training, without held-out losses."]
    trained: Annotated[int, "Number of parameters that were trained; with LoRA, those of the adapters."]
    best_step: Annotated[
        int, "The step with the lowest held-out loss, whose weights are kept; 0 is before training."
    ]
    stopped_early: Annotated[bool, "Whether training ended because the held-out loss no longer fell."]
    curve: Annotated[CurveRecord, "The curve in four numbers."]
    weights_sha256: Annotated[str, "Digest of `weights.safetensors`: the weights that have changed."]
    tensors: NotRequired[Annotated[int, "How many they are; not in older versions."]]
    rates: NotRequired[
        Annotated[list[RateTrial], "The trials that chose the learning rate; only with `heal.lr=null`."]
    ]
    selection: NotRequired[Annotated[SelectionRecord, "Only with `heal.candidates` above 1."]]
