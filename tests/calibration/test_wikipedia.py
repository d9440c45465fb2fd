from __future__ import annotations

import bz2
from pathlib import Path

import pytest

from pruning.calibration import sources
from pruning.calibration.sources import documents
from pruning.calibration.text import Text

PROSE = "Anarchism is a political philosophy that is sceptical of authority, and rejects coercion &amp; hierarchy."
WIKITEXT = """{{Short description|A {{nested}} template}}
[[File:Flag.svg|thumb|A [[flag]] of some colours that is described in more than sixty characters]]
'''Anarchism''' is a [[political philosophy|philosophy]] of {{a|b {{c}} d}}[[authority]]<ref name=b /> and<!-- a
comment --> of ''hierarchy''<ref name="a">A source.</ref>, as [http://a.org the site] says &mdash; sixty characters.

== A heading that is long enough to be taken for a paragraph, were it not a heading ==
{| class="wikitable"
|-
| A cell of a table that is long enough to be taken for a paragraph, were it not in a table

And another paragraph of the same cell, which does not begin with a sign of the table either.
|}
* A point of a list that is long enough to be taken for a paragraph, were it not in a list
A short line.
[[Category:Anarchism]]
The sum is <math>a < b</math> known, <br /> and the paragraph has more than sixty characters in it.
"""


def test_wiki_markup_becomes_plain_paragraphs() -> None:
    assert sources.clean(WIKITEXT).split("\n\n") == [
        "Anarchism is a philosophy of authority and of hierarchy, as the site says — sixty characters.",
        "The sum is  known,  and the paragraph has more than sixty characters in it.",
    ]


def test_articles_are_prose_pages_and_their_parts_are_disjoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles = [*(f"Article {i}" for i in range(40)), "Wikipedia:Help", "Stub"]
    texts = {title: f"{title}. {PROSE}\n" * (1 if title == "Stub" else 20) for title in titles}
    pages = "".join(f"<page><title>{t}</title><text>{texts[t]}</text></page>" for t in titles)
    dump = tmp_path / "dump.xml.bz2"
    dump.write_bytes(bz2.compress(f'<mediawiki xmlns="http://x">{pages}</mediawiki>'.encode()))
    monkeypatch.setattr(sources, "extract", lambda *_: dump)
    assert [title for title, _ in sources.articles()] == titles[:40]
    parts = [list(documents(Text("wikipedia_sample", 1, 8, 0, part=part))) for part in sources.PARTS]
    assert all(parts)
    assert len(set(parts[0]) | set(parts[1])) == len(parts[0]) + len(parts[1]) == 40
