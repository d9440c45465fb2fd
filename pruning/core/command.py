"""Run a command so that no ordinary fault shows a traceback: Ctrl-C, a full disk, no permission, a closed pipe.

This module imports little, because it must be ready before anything that is slow to import.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
STOPPED = "interrupted: everything finished so far is kept; run the same command again to continue."
# Plain forms of the characters that the project prints beyond ASCII.
PLAIN = {
    "·": "-",
    "±": "+/-",
    "→": "->",
    "—": "-",
    "\u2013": "-",
    "\u00d7": "x",
    "─": "-",
    "━": "-",
    "│": "|",
    "…": "...",
}


def run_command(path: str) -> None:
    """Import `module:function` and call it, guarded; the import is guarded too, because it can take seconds."""
    with guarded():
        from pkgutil import resolve_name

        resolve_name(path)()


@contextmanager
def guarded() -> Iterator[None]:
    """Within this context, turn ordinary faults into one line and an exit status, and tolerate a closed pipe.

    Bad input gives status 2, a failure 1, Ctrl-C 130. Any other exception is a defect and keeps its traceback.
    """
    streams = sys.stdout, sys.stderr
    try:
        sys.stdout, sys.stderr = (_tolerant(stream) for stream in streams)
        _silence_broken_logs()
        yield
    except KeyboardInterrupt:
        _end(STOPPED, INTERRUPTED)
    except Exception as error:
        if (ending := _plain_ending(error)) is None:
            raise
        _end(*ending)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
        sys.stdout, sys.stderr = streams


def _plain_ending(error: Exception) -> tuple[str, int] | None:
    """The text and the exit status of an ordinary fault; None if the error is a defect."""
    from pruning.core.errors import MismatchError, PruningError, RankError
    from pruning.core.os_errors import sentence

    if isinstance(error, PruningError):
        return str(error), FAILED if isinstance(error, (MismatchError, RankError)) else BAD_INPUT
    return (sentence(error), FAILED) if isinstance(error, OSError) else None


def _silence_broken_logs() -> None:
    """Do not print tracebacks if a log file cannot be written."""
    import logging

    logging.raiseExceptions = False


def _end(text: str, status: int) -> None:
    print(text, file=sys.stderr)  # noqa: T201
    raise SystemExit(status) from None


class _Tolerant:
    """A text stream whose reader may go away: what is written afterwards is discarded."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text; returns how many characters were given."""
        with self._tolerated():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        with self._tolerated():
            self._stream.flush()

    @contextmanager
    def _tolerated(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            _discard(self._stream)
        except OSError as error:
            error.filename = error.filename or "the output"
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _tolerant(stream: Any) -> Any:
    """The stream, made tolerant of a closed pipe and of characters that its encoding lacks."""
    if stream is None or isinstance(stream, _Tolerant):
        return stream
    if isinstance(stream, io.TextIOWrapper):
        codecs.register_error("plain", _plain)
        stream.reconfigure(errors="plain")
    return _Tolerant(stream)


def _plain(error: UnicodeError) -> tuple[str, int]:
    """An error handler of codecs: write a character that the encoding lacks in its plain form, or as `?`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


def _discard(stream: Any) -> None:
    """Send all later output of a stream to nowhere; otherwise Python reports the closed pipe again at its exit."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
