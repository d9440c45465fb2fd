"""How a command treats its process: errors in words, how threads wait, and memory that is kept."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import pty
import struct
import subprocess
import sys
import termios

import pytest

from pruning.core.errors import InputError, UnreachableError, is_fatal, merged_error, unknown
from pruning.core.terminal import (
    BLAS_THREADS,
    SPINS,
    THREADS_DECIDED,
    keep_pages,
    let_threads_wait,
    use_one_blas_thread,
)


@pytest.mark.parametrize(
    ("name", "known", "near", "available"),
    [
        ("llama", ["llama3_2_1b", "llama3"], " Did you mean llama3 or llama3_2_1b?", "llama3, llama3_2_1b"),
        ("zzz", ["greedy", "one_shot"], "", "greedy, one_shot"),
        ("greedy", [], "", "none"),
    ],
)
def test_a_misspelt_name_is_shown_with_the_near_and_all_known_names(
    name: str, known: list[str], near: str, available: str
) -> None:
    assert str(unknown("algo", name, iter(known))) == f"unknown algo '{name}'.{near} Available: {available}."


def test_a_merged_error_keeps_the_order_and_has_each_text_once() -> None:
    wrong = [InputError("ratio is wrong"), UnreachableError("no network"), InputError("ratio is wrong")]
    assert str(merged_error(wrong)).splitlines() == ["ratio is wrong", "no network"]


def test_a_full_disk_and_a_closed_pipe_end_a_command_and_fail_no_cell() -> None:
    fatal = {name for name in errno.errorcode.values() if is_fatal(OSError(getattr(errno, name), ""))}
    assert fatal == {"ENOSPC", "EDQUOT", "EPIPE"}
    assert not is_fatal(InputError("wrong"))


@pytest.fixture
def undecided(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (*THREADS_DECIDED, *BLAS_THREADS):
        monkeypatch.setenv(name, "")  # so that what the test sets is undone
        monkeypatch.delenv(name)
    return monkeypatch


def test_threads_wait_and_numpy_has_one_thread_unless_the_user_has_decided(
    undecided: pytest.MonkeyPatch,
) -> None:
    let_threads_wait()
    assert os.environ[SPINS[0]] == SPINS[1]
    for name in THREADS_DECIDED:
        undecided.delenv(SPINS[0], raising=False)
        undecided.setenv(name, "7")
        let_threads_wait()
        assert {other: os.environ[other] for other in THREADS_DECIDED if other in os.environ} == {name: "7"}
        undecided.delenv(name)
    undecided.setenv(BLAS_THREADS[0], "3")
    use_one_blas_thread()
    assert [os.environ[name] for name in BLAS_THREADS] == ["3", "1"]


BAR = """
from pruning.core.terminal import guarded, progress_bar
with guarded(), progress_bar("a long name of a cell", "{n_fmt}/{total_fmt} done [{elapsed}]  {desc}", total=9) as bar:
    bar.update(4), bar.refresh(), bar.update(5)
"""
SHOWN = {name: value for name, value in os.environ.items() if name not in ("TQDM_DISABLE", "COLUMNS")}


@pytest.mark.parametrize("columns", [0, 20, 100])
def test_a_terminal_of_any_width_shows_progress(columns: int) -> None:
    terminal, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", min(columns, 24), columns, 0, 0))
    subprocess.run(
        [sys.executable, "-c", BAR], stdin=inner, stdout=inner, stderr=inner, env=SHOWN, check=True
    )
    os.close(inner)
    shown = os.read(terminal, 1 << 16).decode()
    os.close(terminal)
    assert "\r4/9 done [00:00]" in shown
    assert ("a long name of a cell" in shown) == (columns != 20), "what does not fit is cut off"


def test_in_a_file_each_state_of_a_bar_is_a_line() -> None:
    ended = subprocess.run([sys.executable, "-c", BAR], env=SHOWN, check=True, capture_output=True, text=True)
    lines = [line.partition(" ")[0] for line in ended.stderr.splitlines()]
    assert lines == ["0/9", "4/9", "9/9"]
    assert "\r" not in ended.stderr


PROGRAM = """
import resource, sys
from pruning.core.terminal import keep_pages
kept = sys.argv[1] == "keep" and keep_pages()
import torch
torch.ones(1 << 24)  # 64 MiB; the first one needs new pages in any case
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    torch.ones(1 << 24)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc returns pages")
def test_the_second_tensor_needs_no_new_pages() -> None:
    def faults(how: str) -> tuple[bool, int]:
        free = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
        command = [sys.executable, "-c", PROGRAM, how]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=free)
        kept, number = done.stdout.split()
        return kept == "True", int(number)

    (kept, few), (_, many) = faults("keep"), faults("leave")
    assert kept
    assert few < 1000 < many


@pytest.mark.parametrize("name", ["MALLOC_MMAP_THRESHOLD_", "LD_PRELOAD", "GLIBC_TUNABLES"])
def test_what_the_user_has_set_for_memory_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "glibc.malloc.mmap_max=9")
    assert keep_pages() is False


GARBAGE = """
import atexit, gc
from pruning.core.terminal import prepare_process
atexit.register(lambda: print(gc.get_freeze_count() >= 100_000))
prepare_process()
before = sum(generation["collections"] for generation in gc.get_stats())
objects = [[] for _ in range(100_000)]
print(sum(generation["collections"] for generation in gc.get_stats()) - before)
"""


def test_objects_that_stay_are_seldom_searched_for_garbage_and_not_at_the_end() -> None:
    done = subprocess.run([sys.executable, "-c", GARBAGE], capture_output=True, text=True, check=True)
    searches, frozen = done.stdout.split()
    assert int(searches) <= 5  # with Python's thresholds: 50 to 150
    assert frozen == "True"
