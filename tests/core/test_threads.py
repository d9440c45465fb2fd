"""Threads wait without spinning unless the user has decided otherwise."""

from __future__ import annotations

import os

import pytest

from pruning.core.threads import WAITING, let_threads_wait


def test_the_policy_is_set_where_nobody_has_set_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*WAITING, "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    let_threads_wait()
    assert {name: os.environ[name] for name in WAITING} == WAITING


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_what_a_user_has_set_stays(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for other in (*WAITING, "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.setenv(other, "")
        monkeypatch.delenv(other)
    monkeypatch.setenv(name, "7")
    let_threads_wait()
    assert {n: os.environ[n] for n in WAITING if n in os.environ} == ({name: "7"} if name in WAITING else {})
