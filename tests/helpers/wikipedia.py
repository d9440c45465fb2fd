"""Substitutes for embedded texts, without a network: articles and chapters in the form of the real ones."""

from __future__ import annotations

import bz2
from pathlib import Path

import numpy as np
import pytest

from pruning.calibration import sources

WORDS = "river stone window music number garden letter winter market silver teacher engine"


def write_dump(folder: Path, articles: int = 40, sentences: int = 40) -> Path:
    """Write a dump of articles with sentences of random words and a number, so that all differ; returns its path."""
    rng = np.random.default_rng(0)
    pages = []
    for number in range(articles):
        lines = (
            " ".join([*rng.choice(WORDS.split(), 12), str(rng.integers(10**6))]) for _ in range(sentences)
        )
        text = ".\n\n".join(lines)
        pages.append(f"<page><title>Article {number}</title><text>{text}</text></page>")
    path = folder / "dump.xml.bz2"
    path.write_bytes(bz2.compress(f'<mediawiki xmlns="http://x">{"".join(pages)}</mediawiki>'.encode()))
    return path


def write_chapters(folder: Path) -> Path:
    """Write a novel with chapters and lines like the real one, of random words; returns its path."""
    rng = np.random.default_rng(1)
    parts = []
    for number in ("I", "II", "III"):
        lines = (" ".join(rng.choice(WORDS.split()[::-1], 9)) for _ in range(150))
        parts.append(f"Chapter {number}\n\n\n" + ",\n".join(lines))
    path = folder / "novel.txt"
    path.write_text("\n\n".join(parts), encoding="utf-8")
    return path


def use_dump(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let `wikipedia_sample` read the articles of `write_dump`, and `novel` the chapters of `write_chapters`."""
    texts = {"wikipedia_sample.xml.bz2": write_dump(folder), "voyage_out.txt": write_chapters(folder)}
    monkeypatch.setattr(sources, "extract", lambda _, name, *__: texts[name])
