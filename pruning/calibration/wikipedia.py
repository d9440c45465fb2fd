"""A sample of the English Wikipedia from the gensim wheel: 206 pages, 97 of them prose (CC BY-SA).

The wheel is downloaded and unzipped on first use. gensim itself is never installed or imported.
"""

from __future__ import annotations

import bz2
import html
import re
from collections.abc import Iterator
from xml.etree import ElementTree

from pruning.core.wheel_assets import Wheel, extract

WHEEL = Wheel(
    requirement="gensim==4.4.0",
    member="gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
)
SHA256 = "a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d"
MINIMUM = 1000  # a page with fewer characters of prose is a redirect, a list or a stub


def articles() -> Iterator[tuple[str, str]]:
    """Yield the title and prose of each article, in the order of the dump."""
    path = extract([WHEEL], "wikipedia_sample.xml.bz2", SHA256)
    with bz2.open(path) as stream:
        title = ""
        for _, element in ElementTree.iterparse(stream):
            tag = element.tag.rpartition("}")[2]
            if tag == "title":
                title = element.text or ""
            elif tag == "text" and ":" not in title:
                prose = clean(element.text or "")
                if len(prose) >= MINIMUM:
                    yield title, prose


def clean(wikitext: str) -> str:
    """Convert wiki markup to paragraphs: keep link texts; drop templates, tables, references, headings and lists."""
    text = re.sub(r"<!--.*?-->", "", wikitext, flags=re.S)
    text = re.sub(r"<ref[^>]*/>|<(ref|math|gallery|timeline|source)\b.*?</\1>", "", text, flags=re.S | re.I)
    for opening, closing in (("{{", "}}"), ("{|", "|}")):
        text = _without_nested(text, opening, closing)
    text = re.sub(r"\[\[(?:File|Image|Category|[a-z-]{2,12}):(?:[^\[\]]|\[\[[^\[\]]*\]\])*\]\]", "", text)
    text = re.sub(r"\[\[(?:[^|\[\]]*\|)?([^\[\]]*)\]\]", r"\1", text)
    text = re.sub(r"\[https?://\S+ ?([^\]]*)\]", r"\1", text)
    text = re.sub(r"<[^>]+>|'{2,}", "", text)
    text = html.unescape(text)
    lines = (line.strip() for line in text.splitlines())
    return "\n\n".join(line for line in lines if len(line) > 60 and line[0] not in "*#:;=|!{}")


def _without_nested(text: str, opening: str, closing: str) -> str:
    depth, kept = 0, []
    for piece in re.split(f"({re.escape(opening)}|{re.escape(closing)})", text):
        if piece == opening:
            depth += 1
        elif piece == closing:
            depth = max(0, depth - 1)
        elif depth == 0:
            kept.append(piece)
    return "".join(kept)
