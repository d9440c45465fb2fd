"""What a result says about a healing: the training of the pruned model."""

from __future__ import annotations

from typing import Annotated, Any, TypedDict


class CurveRecord(TypedDict):
    """The curve of a healing in four numbers."""

    heldout_before: Annotated[
        float, "Cross entropy per token, in nats, on the held-out text before training."
    ]
    heldout_after: Annotated[float, "The same after training, with the weights that are kept."]
    first_loss: Annotated[float, "The loss of the first step."]
    last_loss: Annotated[float, "The loss of the last step."]


class HealRecord(TypedDict):
    """How the pruned model was trained."""

    folder: Annotated[str, "The folder of the weights and of the curve (`heal.jsonl`), in the cell's folder."]
    settings: Annotated[dict[str, Any], "The settings of `heal`."]
    source: Annotated[str, "Where the text comes from."]
    text_sha256: Annotated[str, "SHA-256 of the windows that were trained on or held out."]
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
