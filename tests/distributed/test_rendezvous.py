"""Where ranks meet, and which GPUs each one gets: parts of the list of names, never renumbered."""

from __future__ import annotations

import os

import pytest

from pruning.core.errors import InputError
from pruning.engine.collectives import Rendezvous, find_rendezvous, share, visible

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}  # fmt: skip
LOCAL = {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": "77", "SUBMITIT_LOCAL_NTASKS": "2",
         "SUBMITIT_LOCAL_NNODES": "1", "SUBMITIT_LOCAL_GLOBALID": "1", "SUBMITIT_LOCAL_LOCALID": "1"}  # fmt: skip


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*TORCHRUN, *(n for n in os.environ if n.startswith(("SLURM_", "SUBMITIT_", "CUDA_")))]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)


@pytest.mark.parametrize(
    ("given", "size", "shares"),
    [
        ("GPU-f00d,MIG-1a-2b", 2, ["GPU-f00d", "MIG-1a-2b"]),
        ("2,5", 2, ["2", "5"]),
        ("3,1,2,0", 2, ["3,1", "2,0"]),
        ("0,1,2", 2, ["0", "1"]),  # GPU 2 is left over
        ("4, 5,6,7", 1, ["4,5,6,7"]),
        ("", 2, [None, None]),
        (None, 1, [None]),
    ],
)
def test_each_rank_gets_its_part_of_the_visible_gpus(
    given: str | None, size: int, shares: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert [share(visible(), rank, size) for rank in range(size)] == shares


def test_without_a_list_of_gpus_all_gpus_of_the_machine_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert share(visible(), 1, 2) == "2,3"
    with pytest.raises(InputError, match=r"2 ranks .* 1 GPUs \(CUDA_VISIBLE_DEVICES=7\)"):
        share(["7"], 1, 2)


@pytest.mark.parametrize(
    ("name", "value", "bound"),
    [
        ("SLURM_GPUS_PER_TASK", "1", True),
        ("SLURM_TRES_PER_TASK", "cpu=4,gres/gpu=1", True),
        ("SLURM_TRES_PER_TASK", "cpu=4", False),
        ("SLURM_GPU_BIND", "single:1", True),
        ("SLURM_GPU_BIND", "none", False),
    ],
)
def test_gpus_that_slurm_has_bound_are_left_unchanged(
    name: str, value: str, bound: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert (share(["0", "1"], 1, 2) is None) == bound


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        (TORCHRUN | {"WORLD_SIZE": "1", "RANK": "0"}, None),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4"}, None),  # an allocation without submitit
        (TORCHRUN, (3, 4, 1, 2, "env://")),
        (LOCAL, (1, 2, 1, 2, "tcp://127.0.0.1:")),
    ],
)
def test_the_environments_of_torchrun_and_submitit_are_read(
    environment: dict[str, str], found: tuple[int, int, int, int, str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    meeting = find_rendezvous()
    if meeting is None or found is None:
        assert meeting is found
        return
    assert (meeting.rank, meeting.size, meeting.local_rank, meeting.local_size) == found[:4]
    assert meeting.address.startswith(found[4])


def test_a_rank_takes_its_share_and_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    monkeypatch.setattr("torch.set_num_threads", threads.append)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "6")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    Rendezvous(1, 2, 1, 2, "env://").take_share()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-b"
    assert threads == [6]
