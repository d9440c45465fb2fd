"""Embedded texts that need no network: numbered articles and chapters in the form of the real ones."""

from __future__ import annotations

import bz2
from pathlib import Path

import numpy as np
import pytest

from pruning.calibration import sources

WORDS = "river stone window music number garden letter winter market silver teacher engine"


def write_dump(folder: Path, articles: int = 40, sentences: int = 40) -> Path:
    """A dump of articles whose sentences are drawn at random from a few words, so that no two are alike."""
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
    """A novel whose sentences are drawn at random from a few words, with lines as in the real one."""
    rng = np.random.default_rng(1)
    parts = []
    for number in ("I", "II", "III"):
        lines = (" ".join(rng.choice(WORDS.split()[::-1], 9)) for _ in range(150))
        parts.append(f"Chapter {number}\n\n\n" + ",\n".join(lines))
    path = folder / "novel.txt"
    path.write_text("\n\n".join(parts), encoding="utf-8")
    return path


def use_dump(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let `wikipedia_sample` read a dump of numbered articles, and `novel` the chapters of `write_chapters`."""
    texts = {"wikipedia_sample.xml.bz2": write_dump(folder), "voyage_out.txt": write_chapters(folder)}
    monkeypatch.setattr(sources, "extract", lambda _, name, *__: texts[name])
