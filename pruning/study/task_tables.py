"""The tables that a study of tasks prints: all tasks under all sets, and what each policy gains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pruning.core.mask import Mask
from pruning.routing.estimates import Interval
from pruning.routing.policies import DENSE, POLICIES
from pruning.study.tables import render


def routing_text(record: Mapping[str, Any]) -> str:
    """Everything about one group of cells, in the order in which it is read."""
    size = f"k={record['k']}" if record["ratio"] is None else f"{record['ratio']:g}"
    title = (
        f"{record['model']} {record['objective']} {record['algo']} {size} {record['unit']}: sets and tasks"
    )
    parts = [title, _cross(record, "accuracy"), _cross(record, "margin"), _policies(record), _oracle(record)]
    parts += [_router(record), _prefill(record), f"routing  {record['folder']}"]
    return "\n\n".join(part for part in parts if part)


def _cross(record: Mapping[str, Any], what: str) -> str:
    """A row per set and a column per task; each set's difference from the task's own set, with its standard error."""
    cross = record["cross"]
    rows = []
    for name in [DENSE, *record["sets"]]:
        mask = "" if name == DENSE else " ".join(Mask.from_json(record["sets"][name]).names())
        rows.append([name, mask, *(_entry(cross[task][name], what, name == task) for task in cross)])
    wanted = "accuracy on held-out items" if what == "accuracy" else "margin (lower is better)"
    return f"{wanted}; in brackets: minus the task's own set\n" + render(("set", "drops", *cross), rows)


def _entry(entry: Mapping[str, Any], what: str, own: bool) -> str:
    text = f"{entry[what]:.3f}"
    if own:
        return f"{text} (own)"
    gap = entry[f"{what}_to_own"]
    error = "" if gap["error"] is None else f" ± {gap['error']:.3f}"
    return f"{text} ({gap['value']:+.3f}{error})"


def _policies(record: Mapping[str, Any]) -> str:
    rows = []
    for name, policy in record["policies"].items():
        gain = "" if name == "static" else interval_text(policy["gain"], signed=True)
        rows.append(
            [name, POLICIES[name], interval_text(policy["accuracy"]), gain, f"{policy['margin']:.3f}"]
        )
    columns = ("policy", "chooses", "accuracy, mean over tasks", "gain over static", "margin")
    return render(columns, rows)


def _oracle(record: Mapping[str, Any]) -> str:
    if (oracle := record.get("oracle")) is None:
        return ""
    gains = {name: interval_text(oracle[name], signed=True) for name in ("apparent", "surviving", "chance")}
    return (
        f"oracle   gain over the best static set {gains['apparent']}; after a second wording {gains['surviving']}; "
        f"that with random labels {gains['chance']}\n         {oracle['verdict']}"
    )


def _router(record: Mapping[str, Any]) -> str:
    router = record["router"]
    shares = router["explained"]
    rows = [[task, *counts.values()] for task, counts in router["chosen"].items()]
    table = render(("prompts of", *record["sets"]), [list(map(str, row)) for row in rows])
    return (
        f"router   predicts the {router['settings']['target']}; it explains {shares['common']:.2f} of the variance "
        f"of its mean over sets, and {shares['relative']:.2f} of that of the differences between sets; it chooses\n"
        f"{table}"
    )


def _prefill(record: Mapping[str, Any]) -> str:
    if (times := record["prefill"]) is None:
        return ""
    dense, pruned, router = times["dense"], times["pruned"], times["router"]
    saved = 1 - (pruned + router) / dense
    return (
        f"prefill  {1000 * dense:.1f} ms per prompt of {times['tokens']:.0f} tokens dense; "
        f"{1000 * pruned:.1f} pruned + {1000 * router:.1f} router: {100 * saved:.0f} % saved, "
        f"{100 * (1 - pruned / dense):.0f} % without the router's time"
    )


def interval_text(found: Interval, signed: bool = False) -> str:
    """`0.512 [0.498, 0.527]`."""
    sign = "+" if signed else ""
    return f"{found['value']:{sign}.3f} [{found['low']:{sign}.3f}, {found['high']:{sign}.3f}]"
