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


def is_terminal(stream: Any) -> bool:
    """Whether a stream is shown on a terminal; False if it is closed."""
    try:
        return stream is not None and bool(stream.isatty())
    except ValueError:
        return False


def run_command(path: str) -> None:
    """Import `module:function` and call it, guarded; the import is guarded too, because it can take seconds."""
    with guarded():
        from pkgutil import resolve_name

        resolve_name(path)()


@contextmanager
def guarded() -> Iterator[None]:
    """Within this context, turn ordinary faults into one line and an exit status; text never stops the work.

    Bad input gives status 2, a failure 1, Ctrl-C 130. Any other exception is a defect and keeps its traceback. If
    output is closed, or cannot be written, the work goes on without it. If it could not be written although somebody
    waits for it, as on a full disk, the status is 1 in the end.
    """
    _occupy_descriptors()
    streams = sys.stdout, sys.stderr
    try:
        sys.stdout, sys.stderr = (_tolerant(stream) for stream in streams)
        _silence_broken_logs()
        yield
        sys.stdout.flush()
        if (lost := getattr(sys.stdout, "lost", None)) is not None:
            raise lost
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


def _occupy_descriptors() -> None:
    """Open nothing under the numbers of closed standard streams: else the next file would get what is printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            os.set_inheritable(number, True)  # the files of child processes must not get this number, either


class _Nowhere(io.StringIO):
    """A text stream that keeps nothing, in place of one that was closed before the program began."""

    def write(self, text: str) -> int:
        """Returns how many characters were given."""
        return len(text)


class _Tolerant:
    """A text stream that may fail, or whose reader may go away: what is written afterwards is discarded.

    `lost` is the error, unless the reader has gone.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        """Write text; returns how many characters were given."""
        with self._tolerated():
            try:
                self._stream.write(text)
            except UnicodeEncodeError:  # a stream whose error handler cannot be set
                self._stream.write(
                    "".join(PLAIN.get(letter, letter) for letter in text).encode("ascii", "replace").decode()
                )
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        with self._tolerated():
            self._stream.flush()

    @contextmanager
    def _tolerated(self) -> Iterator[None]:
        try:
            yield
        except (BrokenPipeError, ValueError):  # the reader has gone, or the program has closed the stream
            self._give_up()
        except OSError as error:
            error.filename = error.filename or "the output"
            self.lost = self.lost or error
            self._give_up()

    def _give_up(self) -> None:
        _discard(self._stream)
        self._stream = _Nowhere()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _tolerant(stream: Any) -> Any:
    """The stream, made tolerant of a closed pipe and of characters that its encoding lacks."""
    if stream is None:  # closed before the program began
        return _Nowhere()
    if isinstance(stream, _Tolerant):
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
