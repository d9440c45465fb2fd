"""The page on healing states the numbers of the archived study, which are computed here again."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.data.archive import folder
from analysis.data.load import Metric, load
from analysis.figures.fig10_healing import healed, summary, table

ROOT = Path(__file__).parents[2]
MINUS = "\N{MINUS SIGN}"
HELDOUT = Metric("ppl", ("ppl/heldout",))


@pytest.fixture(scope="module")
def results() -> Path:
    return folder(ROOT / "analysis/heal/heal.tar.xz")


def test_the_page_has_the_computed_statistics_of_every_state(results: Path) -> None:
    page = (ROOT / "docs/healing.md").read_text(encoding="utf-8")
    rows = summary(healed(results, load(results, "heal"), HELDOUT))
    assert len(rows) >= 4
    for row in rows.to_dict("records"):
        numbers = [
            f"{row[name]:.2f} ({row[f'{name}_low']:.2f} to {row[f'{name}_high']:.2f})".replace("-", MINUS)
            for name in ("correlation", "spread_before", "spread", "regret")
        ]
        assert " | ".join([row["state"], str(row["masks"]), *numbers]) in page, row


def test_the_page_has_each_mask_with_its_perplexities(results: Path) -> None:
    page = (ROOT / "docs/healing.md").read_text(encoding="utf-8")
    rows = table(healed(results, load(results, "heal"), HELDOUT))
    masks = list(rows.groupby("dropped", sort=False))
    assert len(masks) >= 12
    for dropped, states in masks:
        ppl = states.set_index("state")["ppl"]
        assert f"| {dropped} | {' | '.join(map(shown, ppl))} |" in page
    assert set(rows.loc[rows["tokens"] > 0, "runs"]) == {3}
    assert "Healings are means of\nthree seeds." in page


def shown(perplexity: float) -> str:
    """A perplexity as the page writes it."""
    if perplexity >= 1e6:
        return f"{perplexity:.1e}".replace("e+0", "e")
    return f"{perplexity:,.0f}" if perplexity >= 100 else f"{perplexity:.1f}"
