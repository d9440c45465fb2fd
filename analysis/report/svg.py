"""Small SVG drawings of one cell. The page's light or dark style sets their colours."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from pruning.core.mask import Mask, unit_noun

from ..figures.style import number

SIDE, GAP = 10, 1.5
WIDTH, HEIGHT = 320.0, 110.0


def strip(mask: Mask, numbered: bool = False) -> Markup:
    """The mask as a row of squares; removed units are filled. If `numbered`, every fifth block is numbered.

    Sub-layers are in two rows: attention above, MLPs below.
    """
    n_blocks, rows = mask.n_blocks, mask.n_units // mask.n_blocks
    kept = "".join(_square(*divmod(i, rows)) for i in mask.kept)
    gone = "".join(_square(*divmod(i, rows)) for i in mask.dropped)
    labels = "".join(
        f'<text x="{i * SIDE + SIDE / 2:g}" y="{rows * SIDE + 9}">{i}</text>' for i in range(0, n_blocks, 5)
    )
    height = rows * SIDE + 12 if numbered else rows * SIDE
    units = unit_noun(mask.unit)
    listed = f"{units}s {', '.join(mask.names())} of {mask.n_units} removed"
    words = listed if mask.dropped else f"no {units} removed"
    return Markup(
        f'<svg class="strip{" numbered" if numbered else ""}" viewBox="0 0 {n_blocks * SIDE} {height}" role="img" '
        f'aria-label="{words}"><path class="kept" d="{kept}"/><path class="gone" d="{gone}"/>'
        f"{labels if numbered else ''}</svg>"
    )


def _square(block: int, row: int) -> str:
    side = SIDE - GAP
    return f"M{block * SIDE + GAP / 2:g} {row * SIDE + GAP / 2:g}h{side:g}v{side:g}h-{side:g}z"


def curve(steps: Sequence[tuple[int, float]], last: int) -> Markup:
    """A plot of the best loss so far. `steps` are improvements of that loss; `last` is the number of masks scored."""
    if not steps:
        return Markup("")
    values = [loss for _, loss in steps]
    low, high = min(values), max(values)
    span = (high - low) or 1.0

    def x(scores: float) -> float:
        return 8 + (WIDTH - 16) * scores / max(last, 1)

    def y(loss: float) -> float:
        return 8 + (HEIGHT - 30) * (high - loss) / span if high > low else (HEIGHT - 14) / 2

    path = f"M{x(steps[0][0]):.1f} {y(steps[0][1]):.1f}"
    path += "".join(f"H{x(scores):.1f}V{y(loss):.1f}" for scores, loss in steps[1:]) + f"H{x(last):.1f}"
    above = min(y(values[-1]) - 5, HEIGHT - 24)
    words = f"Best loss so far: {values[0]:.4f} after {steps[0][0]} masks, {values[-1]:.4f} after {last}"
    dots = "".join(f'<circle cx="{x(scores):.1f}" cy="{y(loss):.1f}" r="2"/>' for scores, loss in steps)
    return Markup(
        f'<svg class="curve" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{words}">'
        f'<path class="axis" d="M8 {HEIGHT - 18:g}H{WIDTH - 8:g}"/><path class="line" d="{path}"/>{dots}'
        f'<text class="start" x="8" y="{HEIGHT - 6:g}">0</text>'
        f'<text class="end" x="{WIDTH - 8:g}" y="{HEIGHT - 6:g}">{last:,} masks scored</text>'
        f'<text class="end" x="{WIDTH - 8:g}" y="{above:.1f}">{number(values[-1])}</text>'
        "</svg>"
    )
