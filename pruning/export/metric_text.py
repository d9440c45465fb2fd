"""A result's measurements as text: for the model card, and for the summary that a command prints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pruning.core.metric_names import error_of, kind_of, main_of, metrics_among
from pruning.core.nested import leaves
from pruning.core.result import DoneResult
from pruning.core.speed_record import SpeedRecord, SpreadRecord
from pruning.core.units import bytes_text, rate_text
from pruning.export.portable import code, escaped, portable

Timed = Literal["prefill_per_second", "decode_per_second", "first_token_seconds"]
Ratio = Literal["prefill", "decode", "first_token"]
QUANTITIES: dict[Timed, tuple[str, Ratio, int]] = {
    "prefill_per_second": ("prefill, tokens/s", "prefill", 1),
    "decode_per_second": ("decode, tokens/s", "decode", 1),
    "first_token_seconds": ("time to first token, ms", "first_token", 1000),
}


def metrics(
    result: DoneResult | None, which: Literal["pruned", "healed"] = "pruned"
) -> Iterator[tuple[str, str, str]]:
    """Name, dense value and the value of the pruned or healed model of every metric of a result, as text."""
    if result is None:
        return
    dense, pruned = result["evaluation"]["dense"], result["evaluation"].get(which, {})
    for name in metrics_among(pruned):
        if isinstance(pruned[name], (int, float)):
            yield name, number(name, dense), number(name, pruned)


def number(name: str, values: Mapping[str, Any]) -> str:
    """A metric as text, with its standard error if it has one; `-` if the metric is not in `values`."""
    if not isinstance(value := values.get(name), (int, float)):
        return "-"
    decimals = 2 if abs(value) >= 10 else 3
    error = values.get(error_of(name))
    return f"{value:,.{decimals}f}" + (f" ± {error:,.{decimals}f}" if isinstance(error, float) else "")


def unmeasured(result: DoneResult | None) -> str:
    """The reason why there is no metric."""
    return "the mask does not come from a cell" if result is None else "its cell was evaluated for speed only"


def measured_section(result: DoneResult | None, own: bool = False) -> Iterator[str]:
    """Paragraphs of the model card's section on the metrics; `own`: the pruned model has a mask of its own."""
    rows = list(metrics(result))
    if result is None or not rows:
        yield f"Nothing: {unmeasured(result)}."
        return
    evaluation = result["evaluation"]
    plain, first = evaluation.get("uncompensated"), "pruned as searched" if own else "pruned"
    models: list[tuple[str, Mapping[str, Any]]] = [("dense", evaluation["dense"])]
    if plain is None:
        models.append((first, evaluation["pruned"]))
    else:
        changed = "repaired" if "repair" in result else "compensated"
        models += [(first, plain), (changed, evaluation["pruned"])]
    if (healed := evaluation.get("healed")) is not None:
        models.append(("healed", healed))
    lines = [f"| metric | {' | '.join(title for title, _ in models)} |", "|---" * (1 + len(models)) + "|"]
    for name, _, _ in rows:
        lines.append(f"| {escaped(name)} | {' | '.join(number(name, values) for _, values in models)} |")
    yield "\n".join(lines)
    yield (
        "Values with their standard errors over samples, if they have any. Both models were measured in "
        f"{result['model']['dtype']} by one program on the same data. "
        + _overlap(evaluation.get("overlap", {}))
    )
    yield "\n".join(f"- {code(name)}: {_how(name, evaluation)}" for name, _, _ in rows)


def _overlap(shared: Mapping[str, int]) -> str:
    if not shared:
        return "The search did not use these data."
    pieces = ", ".join(f"{count} with {escaped(name)}" for name, count in shared.items())
    return f"The calibration data share pieces with these data ({pieces}), so the values favour the mask."


def _how(name: str, evaluation: Mapping[str, Any]) -> str:
    """How a metric was measured: the recorded settings of its evaluation, and the digest of its data."""
    if (measured := main_of(name)) != name:
        plain = "lm-eval's acc, not normalised by length, " if kind_of(name) == "acc_plain" else ""
        return f"{plain}from the same answers as `{measured}`"
    how = dict(leaves(portable(evaluation.get("how", {}).get(name, {}))))
    parts = [
        f"{escaped(key)} {code(json.dumps(value, ensure_ascii=False))}"
        for key, value in how.items()
        if value is not None
    ]
    if (digest := evaluation.get("data", {}).get(name)) is not None:
        parts.append(f"SHA-256 `{digest[:16]}`")
    return ", ".join(parts) or "not recorded"


def speed_section(speed: SpeedRecord) -> Iterator[str]:
    """Paragraphs of the model card's section on speed: medians with quartiles, dense and pruned."""
    lines = ["| batch, prompt | | dense | pruned | |", "|---|---|---|---|---|"]
    for run in speed["runs"]:
        shape = f"{run['batch']}, {run['prompt']}"
        for name, (title, short, factor) in QUANTITIES.items():
            both = " | ".join(_spread(one[name], factor) for one in (run["dense"], run["pruned"]))
            lines.append(f"| {shape} | {title} | {both} | {run['ratio'][short]:.2f}x |")
        a, b = run["dense"]["peak_memory"], run["pruned"]["peak_memory"]
        if a is not None and b is not None:
            lines.append(f"| {shape} | peak memory | {bytes_text(a)} | {bytes_text(b)} | {b / a:.2f}x |")
    yield "\n".join(lines)
    yield (
        f"On {escaped(speed['device'])}, in {speed['dtype']}, with a cache: medians of {speed['repeats']} repeats "
        f"with their quartiles, after {speed['warmup']} warm-up runs. The two models alternate; each run generates "
        f"{speed['runs'][0]['new_tokens']} tokens."
    )


def speedup_text(result: DoneResult | None) -> str:
    """The speedup over the dense model (ratio of tokens per second), in a few words; empty if it was not measured."""
    if result is None or (speed := result["evaluation"].get("speed")) is None:
        return ""
    run = speed["runs"][0]
    return (
        f"; {run['ratio']['prefill']:.2f}x prefill, {run['ratio']['decode']:.2f}x decode "
        f"(batch {run['batch']}, prompt {run['prompt']}, {speed['device']})"
    )


def _spread(value: SpreadRecord, factor: float) -> str:
    median, low, high = (rate_text(n * factor) for n in (value["median"], value["low"], value["high"]))
    return f"{median} ({low} to {high})"
