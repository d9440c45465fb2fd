"""Threads wait without spinning for long, unless the user has decided otherwise."""

from __future__ import annotations

import os

import pytest

from pruning.core.terminal import BLAS_THREADS, SPINS, THREADS_DECIDED, let_threads_wait, use_one_blas_thread


@pytest.fixture(autouse=True)
def undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*THREADS_DECIDED, *BLAS_THREADS):
        monkeypatch.setenv(name, "")  # so that what the test sets is undone
        monkeypatch.delenv(name)


def test_the_number_of_spins_is_set_if_nobody_has_set_anything() -> None:
    let_threads_wait()
    assert os.environ[SPINS[0]] == SPINS[1]


@pytest.mark.parametrize("name", THREADS_DECIDED)
def test_a_setting_of_the_user_stays(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "7")
    let_threads_wait()
    assert {other: os.environ[other] for other in THREADS_DECIDED if other in os.environ} == {name: "7"}


def test_numpy_gets_one_thread_unless_the_user_has_set_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BLAS_THREADS[0], "3")
    use_one_blas_thread()
    assert [os.environ[name] for name in BLAS_THREADS] == ["3", "1"]
