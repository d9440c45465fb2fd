"""The GGUF file that an export writes: where, and what it may replace."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pruning.core.errors import InputError
from pruning.core.hashing import file_sha256, text_sha256
from pruning.core.temporary import sweep
from pruning.export.output_dir import check_writable
from pruning.gguf.container import open_gguf
from pruning.gguf.metadata import record_of

ENDING = ".gguf"
SAME = ("mask", "source_sha256")  # what an earlier file must share with a new one to be replaced
# A card and its last line, which `sealed` adds.
SEALED = re.compile(
    r"(.*)\n<!-- SHA-256 of the file ([0-9a-f]{64})(?:, of the file before ([0-9a-f]{64}))?, "
    r"of the text above ([0-9a-f]{64}) -->\n",
    re.DOTALL,
)


def is_gguf(out: Path) -> bool:
    """Whether an export to this path writes a GGUF file, and not a directory."""
    return out.suffix.lower() == ENDING


def card_of(out: Path) -> Path:
    """The card of a GGUF file: a text beside it."""
    return out.with_name(f"{out.name}.md")


def sealed(card: str, sha256: str, replaced: str | None = None) -> str:
    """The text of a card, with the digests of the GGUF file and of the text itself in a comment that nobody sees.

    `replaced` is the digest of the file whose place the GGUF file takes.
    """
    before = "" if replaced is None else f", of the file before {replaced}"
    return f"{card}\n<!-- SHA-256 of the file {sha256}{before}, of the text above {text_sha256(card)} -->\n"


def check_gguf_target(out: Path, record: Mapping[str, Any], force: bool) -> None:
    """Raise InputError unless a GGUF file can be written to `out`.

    An existing file is replaced only if its record shows that it was cut from the same file (`source_sha256`) with
    the same `mask`, and has the same compensation. `record` holds what is known of these. The file and its card must
    be as they were written. With `force`, the compensation may differ, and the file and its card may have changed.
    """
    try:
        sweep(out.parent)
        if out.is_dir():
            raise InputError(
                f"{out} is a directory: give a file, or a directory whose name has another ending."
            )
        check_writable(out)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}): choose another file.") from error
    if not out.exists():
        if card_of(out).exists() and card_of(out) in _changed(out):
            raise InputError(
                f"{card_of(out)}, where the card goes, exists: move it away, or choose another file."
            )
        return
    earlier = _record(out)
    if earlier is None:
        raise InputError(
            f"{out} exists, and is no GGUF file that this command wrote: move it away, or choose another file "
            "(force=true does not replace it)."
        )
    other = [name for name, value in record.items() if earlier.get(name) != value]
    if foreign := [name for name in other if name in SAME]:
        raise InputError(
            f"{out} holds another cut (of another {' and another '.join(foreign)}): move it away, or choose another "
            "file."
        )
    if other and not force:
        raise InputError(
            f"{out} holds a cut of this model and mask with another {' and another '.join(other)}: choose another "
            "file, or replace it with force=true."
        )
    if (changed := _changed(out)) and not force:
        raise InputError(
            f"{' and '.join(map(str, changed))} changed after the cut was written: move the files away, choose "
            "another file, or replace them with force=true."
        )


def _changed(out: Path) -> list[Path]:
    """The file and its card, as far as they are not as they were written; the card if it has no digests at its end.

    The whole file is read.
    """
    card = card_of(out)
    try:
        match = SEALED.fullmatch(card.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        match = None
    if match is None:
        return [card]
    text, *digests, of_text = match.groups()
    changed = [out] if out.exists() and file_sha256(out) not in digests else []
    return [*changed, *([] if text_sha256(text) == of_text else [card])]


def _record(out: Path) -> Mapping[str, Any] | None:
    try:
        return record_of(open_gguf(out))
    except InputError:
        return None
