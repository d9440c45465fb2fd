"""A small SVG drawing of a healing: the held-out loss and the training loss over tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pruning.core.heal_record import HealRecord
from pruning.healing.curve import NAME, Point, heldout, read

from ..figures.style import number
from .svg import HEIGHT, WIDTH


def healing(points: Sequence[Point]) -> Markup:
    """A line through the held-out losses and a dot for each training loss; empty without held-out losses."""
    judged = [(point["tokens"], point["heldout_loss"]) for point in heldout(points)]
    trained = [(point["tokens"], point["loss"]) for point in points if "loss" in point]
    if not judged:
        return Markup("")
    last = max(point["tokens"] for point in points) or 1
    values = [loss for _, loss in (*judged, *trained)]
    low, span = min(values), (max(values) - min(values)) or 1.0

    def place(tokens: float, loss: float) -> tuple[float, float]:
        return 8 + (WIDTH - 16) * tokens / last, 8 + (HEIGHT - 30) * (1 - (loss - low) / span)

    path = "L".join("{:.1f} {:.1f}".format(*place(*point)) for point in judged)
    dots = "".join('<circle cx="{:.1f}" cy="{:.1f}" r="1"/>'.format(*place(*point)) for point in trained)
    first, final = judged[0][1], min(loss for _, loss in judged)
    words = f"Held-out loss of the healing: {first:.4f} before, {final:.4f} at best, over {last:,} tokens"
    return Markup(
        f'<svg class="curve" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{words}">'
        f'<path class="axis" d="M8 {HEIGHT - 18:g}H{WIDTH - 8:g}"/><path class="line" d="M{path}"/>{dots}'
        f'<text class="start" x="8" y="{HEIGHT - 6:g}">healing: {number(first)} to {number(final)} nats</text>'
        f'<text class="end" x="{WIDTH - 8:g}" y="{HEIGHT - 6:g}">{last:,} tokens</text>'
        "</svg>"
    )


def figure(cell: Path, record: HealRecord) -> Markup:
    """The drawing of a cell's healing; empty if its curve is missing or damaged."""
    try:
        return healing(read(cell / record["folder"] / NAME))
    except ValueError:  # a line that is no JSON; the command names the file at its end
        return Markup()


def facts(record: Any) -> Iterator[tuple[str, str]]:
    """What a healing cost and what it gained, as facts about a finished cell; nothing without a healing."""
    if (heal := record.get("heal")) is None:
        return
    yield (
        "healing",
        f"{heal['settings']['class'].lower()}, {heal['tokens']:,} tokens in {heal['seconds']:,.0f} s",
    )
    if (selection := heal.get("selection")) is not None:
        changed = "another mask than the search's" if selection["changed"] else "the search's mask"
        yield (
            "selection by healing",
            f"{changed}, of {len(selection['losses'])} in {len(selection['rounds'])} rounds: "
            f"{selection['tokens']:,} tokens in {selection['seconds']:,.0f} s",
        )
    for name, value in record["evaluation"].get("healed", {}).items():
        if not name.endswith("/stderr"):
            yield f"{name} healed", number(value)
