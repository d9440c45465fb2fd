"""What `result.json` says about the speed of the dense and the pruned model."""

from __future__ import annotations

from typing import Annotated, TypedDict


class SpreadRecord(TypedDict):
    """A median over repeats with its quartiles."""

    median: Annotated[float, "The median over repeats."]
    low: Annotated[float, "The lower quartile."]
    high: Annotated[float, "The upper quartile."]


class TimingRecord(TypedDict):
    """How fast one model generated."""

    prefill_per_second: Annotated[SpreadRecord, "Tokens of the prompt per second."]
    decode_per_second: Annotated[SpreadRecord, "Tokens per second after the first new one."]
    first_token_seconds: Annotated[SpreadRecord, "Seconds to the first new token."]
    peak_memory: Annotated[int | None, "The most memory in use, in bytes; null if it cannot be measured."]


class RatioRecord(TypedDict):
    """How many times faster the pruned model is than the dense model; above 1 means faster."""

    prefill: Annotated[float, "Ratio of the medians of `prefill_per_second`."]
    decode: Annotated[float, "Ratio of the medians of `decode_per_second`."]
    first_token: Annotated[float, "Ratio of the medians of `first_token_seconds`, dense to pruned."]


class SpeedRun(TypedDict):
    """The speed of both models for one shape of input."""

    batch: Annotated[int, "Number of sequences."]
    prompt: Annotated[int, "Tokens of each prompt."]
    new_tokens: Annotated[int, "Tokens that were generated for each."]
    dense: Annotated[TimingRecord, "The dense model."]
    pruned: Annotated[TimingRecord, "The pruned model."]
    ratio: Annotated[RatioRecord, "How many times better the pruned model is."]


class SizeRecord(TypedDict):
    """How large a model is."""

    parameters: Annotated[int, "Number of parameters."]
    bytes: Annotated[int, "Bytes of the weights."]


class SpeedRecord(TypedDict):
    """What `eval=speed` measures."""

    device: Annotated[str, "The processor or the GPUs."]
    repeats: Annotated[int, "Measured repeats of each shape."]
    warmup: Annotated[int, "Repeats before them that are not measured."]
    dtype: Annotated[str, "The precision."]
    sizes: Annotated[dict[str, SizeRecord], "Size of the `dense` and of the `pruned` model."]
    runs: Annotated[list[SpeedRun], "One entry per batch size and prompt length."]
