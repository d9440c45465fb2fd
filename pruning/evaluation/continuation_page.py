"""A small HTML page with continuations of the dense model beside those of a smaller model."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from pruning.core.continuation_record import SHOWN

STYLE = (
    "body{font:14px/1.45 system-ui,sans-serif;margin:1.5rem}table{border-collapse:collapse;table-layout:fixed;"
    "width:100%}th,td{border:1px solid #bbb;padding:.5rem;text-align:left;vertical-align:top;"
    "white-space:pre-wrap;overflow-wrap:anywhere}"
)


def page(prompts: Sequence[str], dense: Sequence[str], smaller: Sequence[str]) -> str:
    """An HTML page with a table of the first prompts and of the two models' greedy continuations."""
    rows = [
        "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in texts) + "</tr>"
        for texts in list(zip(prompts, dense, smaller, strict=True))[:SHOWN]
    ]
    heads = "".join(f"<th>{head}</th>" for head in ("prompt", "dense model", "smaller model"))
    title = "Greedy continuations"
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n<table><thead><tr>{heads}</tr></thead>\n<tbody>\n"
        + "\n".join(rows)
        + "\n</tbody></table></body></html>\n"
    )
