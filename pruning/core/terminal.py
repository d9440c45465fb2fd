"""Run a command so that no ordinary fault shows a traceback: Ctrl-C, a full disk, no permission, a closed pipe.

This module imports little, because it must be ready before anything that is slow to import.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import io
import logging
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pruning.core.errors import MismatchError, PruningError, RankError, sentence

HELP = {"-h", "--help", "--help=all"}
FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
STOPPED = "interrupted: everything finished so far is kept; run the same command again to continue."


def is_terminal(stream: Any) -> bool:
    """Whether a stream is shown on a terminal; False if it is closed."""
    try:
        return stream is not None and bool(stream.isatty())
    except ValueError:
        return False


def command_words(usage: str | None = None) -> list[str]:
    """Prepare a command's process and log; return its arguments. If it has none, print `usage` and exit."""
    prepare_process()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("pruning").setLevel(logging.INFO)
    words = sys.argv[1:]
    if usage is not None and (not words or HELP & {*words}):
        print(usage)  # noqa: T201 - the command's output
        raise SystemExit(0)
    return words


def show(text: str) -> None:
    """Print a part of a command's output."""
    print(text, flush=True)  # noqa: T201


def progress_bar(title: str, form: str, hidden: bool = False, **settings: Any) -> Any:
    """A tqdm bar on standard error. A terminal shows one changing line; a file gets a line at most every 20 s."""
    from tqdm import tqdm

    stream: Any = sys.stderr
    how: dict[str, Any] = {"file": stream, "dynamic_ncols": True, "mininterval": 0.2}
    if hidden or stream is None:
        how = {"disable": True}
    elif not is_terminal(stream):
        how = {"file": _Lines(stream), "mininterval": 20.0}
    elif 0 in shutil.get_terminal_size(fallback=(0, 0)):  # the size is unknown, so tqdm would show nothing
        columns, lines = shutil.get_terminal_size()
        how |= {"dynamic_ncols": False, "ncols": columns, "nrows": lines}
    return tqdm(desc=title, bar_format=form, **how, **settings)


class _Lines(io.StringIO):
    """Writes each state of a bar as a line of a file, without the carriage return before it."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self._stream = stream

    def write(self, text: str) -> int:
        """Write `text`, the state of a progress bar, as a line; returns its length."""
        if line := text.strip():
            self._stream.write(f"{line}\n")
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()


def typed_command() -> str:
    """The command line of this process as it was typed. An installed program is named without its path."""
    program, *words = sys.orig_argv
    if words and not words[0].startswith("-") and not words[0].endswith(".py"):
        program, *words = words
        found = shutil.which(Path(program).name)
        if found is not None and Path(found).resolve() == Path(program).resolve():
            program = Path(program).name
    return shlex.join([program, *words])


@contextmanager
def guarded() -> Iterator[None]:
    """Within this context, turn ordinary faults into one line and an exit status.

    Bad input gives status 2, a failure 1, Ctrl-C 130. Any other exception is a defect and keeps its traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    logging.raiseExceptions = False  # no traceback if a log file cannot be written
    try:
        yield
        if sys.stdout is not None:  # it can be closed
            sys.stdout.flush()
    except KeyboardInterrupt:
        _end(STOPPED, INTERRUPTED)
    except PruningError as error:
        _end(str(error), FAILED if isinstance(error, (MismatchError, RankError)) else BAD_INPUT)
    except BrokenPipeError:
        sys.stdout = None  # else Python reports the pipe again at exit
        raise SystemExit(FAILED) from None
    except OSError as error:
        try:
            sys.stdout.flush()
        except (OSError, AttributeError):
            sys.stdout = None  # else Python reports the full disk again at exit
        _end(sentence(error), FAILED)


def _end(text: str, status: int) -> None:
    print(text, file=sys.stderr)  # noqa: T201
    raise SystemExit(status) from None


# Settings before torch or numpy is imported: garbage collection, how memory is kept, and how threads wait.

# Imports of torch, transformers and MLflow create a million objects that all stay. With Python's thresholds,
# searching them for garbage takes a second during the imports, and another when the process ends.
THRESHOLDS = (20_000, 50, 100)


def prepare_process() -> None:
    """Set when garbage is collected, how memory is kept, and how threads wait. Call it before importing torch."""
    gc.set_threshold(*THRESHOLDS)
    atexit.register(gc.freeze)  # frozen objects are not searched
    let_threads_wait()
    keep_pages()


# glibc returns every large tensor to the system when it is freed, and the next one gets new pages, which the system
# fills with zeros first. If the pages are kept, the process keeps its peak memory until it ends.
TRIM_THRESHOLD, MMAP_MAX = -1, -4  # the numbers of glibc's settings, from its header malloc.h
NEVER = -1  # the threshold at which no memory is returned


def keep_pages() -> bool:
    """Make glibc keep freed memory, unless the user has configured glibc. Returns whether glibc will keep it."""
    tuned = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or os.environ.get("LD_PRELOAD")
    if tuned or any(name.startswith("MALLOC_") for name in os.environ) or platform.libc_ver()[0] != "glibc":
        return False
    set_option = ctypes.CDLL(None).mallopt
    return bool(set_option(MMAP_MAX, 0)) and bool(set_option(TRIM_THRESHOLD, NEVER))


# In GNU's OpenMP, a waiting thread spins 300,000 times before it sleeps. On a busy machine, it takes a core from the
# thread that it waits for: a search took 1.6 to 4.5 times as long.
SPINS = ("GOMP_SPINCOUNT", "1000")
THREADS_DECIDED = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # if one is set, nothing is changed


def let_threads_wait() -> None:
    """Let waiting threads sleep soon, unless the user has set how threads wait."""
    if not any(name in os.environ for name in THREADS_DECIDED):
        os.environ.setdefault(*SPINS)


# The matrices of the analysis are small. On a busy machine, a product takes 0.1 ms with one thread and 90 ms with
# two, which wait for each other. With one thread, the numbers also do not depend on the number of cores.
BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")  # for the BLAS builds in numpy and scipy


def use_one_blas_thread() -> None:
    """Let numpy compute with one thread, unless the user has set a number of threads."""
    for name in BLAS_THREADS:
        os.environ.setdefault(name, "1")
