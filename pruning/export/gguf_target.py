"""The GGUF file that an export writes: where, and what it may replace."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pruning.core.errors import InputError
from pruning.core.temporary import sweep
from pruning.export.output_dir import check_writable
from pruning.gguf.container import open_gguf
from pruning.gguf.metadata import record_of

ENDING = ".gguf"
SAME = ("mask", "source_sha256")  # what an earlier file must share with a new one to be replaced


def is_gguf(out: Path) -> bool:
    """Whether an export to this path writes a GGUF file, and not a directory."""
    return out.suffix.lower() == ENDING


def card_of(out: Path) -> Path:
    """The card of a GGUF file: a text beside it."""
    return out.with_name(f"{out.name}.md")


def check_gguf_target(out: Path, record: Mapping[str, Any], force: bool) -> None:
    """Raise InputError unless a GGUF file can be written to `out`.

    An existing file is replaced only if its record shows that it was cut from the same file (`source_sha256`) with
    the same `mask`, and has the same compensation, which `force` may change. `record` holds what is known of these.
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
        if card_of(out).exists():
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


def _record(out: Path) -> Mapping[str, Any] | None:
    try:
        return record_of(open_gguf(out))
    except InputError:
        return None
