"""A Wikipedia sample that needs no network: a dump of numbered articles in the form of the real one."""

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


def use_dump(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let `wikipedia_sample` read a dump of numbered articles."""
    dump = write_dump(folder)
    monkeypatch.setattr(sources, "extract", lambda *_: dump)
