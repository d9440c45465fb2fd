"""Find, in the environment of torchrun or submitit, where a job's ranks meet and which GPUs each rank uses."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from pruning.core.errors import InputError

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Rendezvous:
    """The place of one process among all ranks and among those of its machine, and the address where they meet.

    The process is rank `rank` of `size`; on its machine, it is rank `local_rank` of `local_size`. torch.distributed
    joins the ranks at `address`.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    address: str

    def take_share(self) -> None:
        """Restrict this process to its share of GPUs and cores. Call this before CUDA is first used."""
        gpus = share(os.environ, visible(os.environ), self.local_rank, self.local_size)
        if gpus is not None:
            os.environ[VISIBLE] = gpus
        _set_threads(self.local_size)


def find_rendezvous() -> Rendezvous | None:
    """This process's rank and where to meet the other ranks; None if there is only one rank."""
    rendezvous = _of_torchrun(os.environ) or _of_submitit()
    return rendezvous if rendezvous is not None and rendezvous.size > 1 else None


def visible(environment: Mapping[str, str]) -> list[str]:
    """The names of the GPUs that this process may use: those in CUDA_VISIBLE_DEVICES or, if it is unset, all."""
    given = environment.get(VISIBLE)
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def share(environment: Mapping[str, str], gpus: list[str], rank: int, size: int) -> str | None:
    """The GPUs of local rank `rank`, as a value of CUDA_VISIBLE_DEVICES; None if the variable stays as it is.

    Each rank gets neighbours in `gpus`, because neighbouring GPUs are likely to be well connected. Raises
    InputError if there are fewer GPUs than ranks on this machine.
    """
    if not gpus or _bound(environment):
        return None
    if len(gpus) < size:
        raise InputError(
            f"{size} ranks on one machine share {len(gpus)} GPUs ({VISIBLE}={','.join(gpus)}), but each needs at "
            "least one: request more GPUs (model.resources: ranks, gpus_per_rank) or start fewer ranks."
        )
    each = len(gpus) // size
    return ",".join(gpus[rank * each : (rank + 1) * each])


def _bound(environment: Mapping[str, str]) -> bool:
    """Whether SLURM has already given each task separate GPUs. SLURM_TRES_PER_TASK can list only cores."""
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

    # Only read this object: its method `export` would replace the scheduler's CUDA_VISIBLE_DEVICES by the local rank.
    environment = TorchDistributedEnvironment()
    one_machine = environment.local_world_size == environment.world_size
    # A laptop cannot always resolve its own host name.
    host = "127.0.0.1" if one_machine else environment.master_addr
    local = environment.local_rank, environment.local_world_size
    return Rendezvous(
        environment.rank, environment.world_size, *local, f"tcp://{host}:{environment.master_port}"
    )


def _set_threads(ranks: int) -> None:
    """Limit the threads to this rank's cores: two ranks that both use all cores are slower than one rank."""
    import torch

    if "OMP_NUM_THREADS" in os.environ:
        return
    cores = os.environ.get("SLURM_CPUS_PER_TASK")
    torch.set_num_threads(int(cores) if cores else max(1, len(os.sched_getaffinity(0)) // ranks))
