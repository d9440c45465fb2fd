"""Where the ranks of a job meet, and which GPUs each may use: what the environments of torchrun and submitit say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from pruning.core.errors import InputError

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Rendezvous:
    """One rank of `size`, and of `local_size` on its machine; `address` is a URL of torch.distributed."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    address: str

    def take_share(self) -> None:
        """Leave this process its own GPUs, and as many threads as it has cores. Before CUDA is first used."""
        mine = share(os.environ, visible(os.environ), self.local_rank, self.local_size)
        if mine is not None:
            os.environ[VISIBLE] = mine
        _set_threads(self.local_size)


def find_rendezvous() -> Rendezvous | None:
    """This process's place among others; None where it is alone."""
    found = _of_torchrun(os.environ) or _of_submitit()
    return found if found is not None and found.size > 1 else None


def visible(environment: Mapping[str, str]) -> list[str]:
    """The names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them."""
    given = environment.get(VISIBLE)
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def share(environment: Mapping[str, str], gpus: list[str], rank: int, size: int) -> str | None:
    """A rank's part of its machine's GPUs, by their names; None where they are to be left as they are.

    Neighbours in the list, which are likely to be near each other, stay together. Raises InputError for fewer GPUs
    than ranks.
    """
    if not gpus or _bound(environment):
        return None
    if len(gpus) < size:
        raise InputError(
            f"{size} ranks on one machine share {len(gpus)} GPUs ({VISIBLE}={','.join(gpus)}): ask for one or more "
            "for each (model.resources: ranks, gpus_per_rank), or start fewer ranks."
        )
    each = len(gpus) // size
    return ",".join(gpus[rank * each : (rank + 1) * each])


def _bound(environment: Mapping[str, str]) -> bool:
    """Whether SLURM has given each task GPUs of its own already. The third speaks of cores, too."""
    given = (environment.get(name, "") for name in ("SLURM_GPUS_PER_TASK", "SLURM_GPU_BIND"))
    return any(value not in ("", "none") for value in given) or "gpu" in environment.get(
        "SLURM_TRES_PER_TASK", ""
    )


def _of_torchrun(environment: Mapping[str, str]) -> Rendezvous | None:
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if any(name not in environment for name in names):
        return None
    rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    local = int(environment.get("LOCAL_RANK", rank)), int(environment.get("LOCAL_WORLD_SIZE", size))
    return Rendezvous(rank, size, *local, "env://")


def _of_submitit() -> Rendezvous | None:
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return None
    from submitit.helpers import TorchDistributedEnvironment

    # Its `export` would write the local rank over the GPUs that the scheduler has given: what it knows is enough.
    found = TorchDistributedEnvironment()
    alone = found.local_world_size == found.world_size
    host = "127.0.0.1" if alone else found.master_addr  # a laptop's own name need not resolve
    place = (found.rank, found.world_size, found.local_rank, found.local_world_size)
    return Rendezvous(*place, f"tcp://{host}:{found.master_port}")


def _set_threads(ranks: int) -> None:
    """A scheduler without cgroups limits nothing, and two ranks that both use all cores are slower than one."""
    import torch

    if "OMP_NUM_THREADS" in os.environ:
        return
    asked = os.environ.get("SLURM_CPUS_PER_TASK")
    torch.set_num_threads(int(asked) if asked else max(1, len(os.sched_getaffinity(0)) // ranks))
