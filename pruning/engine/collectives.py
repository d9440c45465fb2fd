"""Collective operations of the processes (ranks) that run a cell together; with one rank, they do nothing.

Each rank has the whole model and takes its share of the samples. Ranks exchange only sums over samples, in CPU
memory; in a search, these are kilobytes of losses. For so little, the gloo backend is enough on every machine, with
or without GPUs. Torch is imported only if ranks need it: a command that only submits jobs does not need it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np

from pruning.core.errors import InputError, RankError

T = TypeVar("T")

# A rank that dies is noticed at once. PATIENCE is the time limit for a rank that hangs, and ARRIVAL the limit
# for a rank that never starts.
PATIENCE, ARRIVAL = timedelta(hours=2), timedelta(minutes=10)


@contextmanager
def joined_ranks() -> Iterator[None]:
    """Within this context, ranks that torchrun or submitit started are connected; contexts can be nested.

    Each rank sees its share of the GPUs. Raises RankError if a rank does not connect, or if it ends while another
    rank still needs its data.
    """
    place = find_rendezvous()
    if place is None or world_size() > 1:
        yield
        return
    place.take_share()
    place.join()
    try:
        yield
    finally:
        import torch.distributed as dist

        dist.destroy_process_group()


def rank() -> int:
    """The number of this rank, counted from 0."""
    return _world()[0]


def world_size() -> int:
    """The number of ranks."""
    return _world()[1]


def is_first() -> bool:
    """Whether this is the first rank, which writes the files."""
    return rank() == 0


def share_of(tasks: Sequence[T]) -> Sequence[T]:
    """This rank's share of `tasks`: with n ranks, every n-th task."""
    rank, size = _world()
    return tasks[rank::size]


def gather(results: Sequence[T]) -> list[T]:
    """The results of all tasks, in order, on every rank; `results` has those of this rank's tasks (`share_of`)."""
    if (size := world_size()) == 1:
        return list(results)
    shares: list[Any] = [None] * size
    _exchange(lambda dist: dist.all_gather_object(shares, list(results)))
    return [shares[number % size][number // size] for number in range(sum(map(len, shares)))]


def all_sum(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The sum of `values` over the ranks, in float64, on every rank."""
    if world_size() == 1:
        return values
    import torch

    tensor = torch.from_numpy(values.copy())
    _exchange(lambda dist: dist.all_reduce(tensor))
    summed: np.ndarray[Any, Any] = tensor.numpy()
    return summed


def all_max(value: float) -> float:
    """The maximum of `value` over the ranks, on every rank, so that all ranks make the same plan."""
    return max(gather([value]))


def broadcast(value: T) -> T:
    """The `value` of the first rank, on every rank."""
    if world_size() == 1:
        return value
    box = [value]
    _exchange(lambda dist: dist.broadcast_object_list(box))
    return box[0]


def on_first(action: Callable[[], T]) -> T:
    """Run `action` on the first rank; every rank returns the action's result or raises the action's exception."""
    if world_size() == 1:
        return action()
    answer: tuple[Any, BaseException | None] = (None, None)
    if is_first():
        try:
            answer = (action(), None)
        except Exception as error:
            answer = (None, error)
    value, failure = broadcast(answer)
    if failure is not None:
        raise failure
    return value  # type: ignore[no-any-return]


def any_failure(error: Exception | None) -> Exception | None:
    """This rank's error; a RankError if only other ranks failed; None if no rank failed."""
    texts = gather([None if error is None else f"{type(error).__name__}: {error}"])
    if error is not None or not any(texts):
        return error
    return RankError(f"another rank of this cell failed: {next(filter(None, texts))}")


def _world() -> tuple[int, int]:
    """This process's rank and the number of ranks."""
    dist = sys.modules.get("torch.distributed")  # if it is not imported, no ranks are joined
    if dist is None or not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def _exchange(operation: Callable[[Any], Any]) -> None:
    """Run a collective operation. Raises RankError if another rank has ended or does not answer."""
    import torch.distributed as dist

    try:
        operation(dist)
    except RuntimeError as error:
        raise RankError(
            "another rank of this cell ended or did not answer: the log of that rank says why."
        ) from error


# Read from the environment of torchrun or submitit where a job's ranks meet and which GPUs each rank uses.

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Rendezvous:
    """A process's rank and the number of ranks, overall and on its machine, and the address at which they connect."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    address: str

    def take_share(self) -> None:
        """Restrict this process to its share of GPUs and cores. Call this before CUDA is first used."""
        if (gpus := share(visible(), self.local_rank, self.local_size)) is not None:
            os.environ[VISIBLE] = gpus
        if "OMP_NUM_THREADS" in os.environ:
            return
        import torch

        # Two ranks that both use all cores are slower than one rank.
        cores = os.environ.get("SLURM_CPUS_PER_TASK")
        available = len(os.sched_getaffinity(0)) // self.local_size
        torch.set_num_threads(int(cores) if cores else max(1, available))

    def join(self) -> None:
        """Connect this process with the other ranks."""
        import torch.distributed as dist
        from torch.distributed.rendezvous import rendezvous

        try:
            store, rank, size = next(iter(rendezvous(self.address, self.rank, self.size, timeout=ARRIVAL)))
            dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=PATIENCE)
        except (RuntimeError, ValueError) as error:
            raise RankError(
                f"rank {self.rank} of {self.size} could not join the other ranks at {self.address} ({error}): check "
                "that all have started."
            ) from error


def find_rendezvous() -> Rendezvous | None:
    """This process's rank and the address at which ranks connect; None if there is only one rank."""
    given = os.environ
    if all(name in given for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")):  # by torchrun
        rank, size = int(given["RANK"]), int(given["WORLD_SIZE"])
        local = int(given.get("LOCAL_RANK", rank)), int(given.get("LOCAL_WORLD_SIZE", size))
        place = Rendezvous(rank, size, *local, "env://")
    elif "SUBMITIT_EXECUTOR" in given:
        from submitit.helpers import TorchDistributedEnvironment

        # Do not call `found.export`: it would set CUDA_VISIBLE_DEVICES to the local rank.
        found = TorchDistributedEnvironment()
        # A laptop cannot always resolve its own host name.
        host = "127.0.0.1" if found.local_world_size == found.world_size else found.master_addr
        local = found.local_rank, found.local_world_size
        place = Rendezvous(found.rank, found.world_size, *local, f"tcp://{host}:{found.master_port}")
    else:
        return None
    return place if place.size > 1 else None


def visible() -> list[str]:
    """The names of the GPUs that this process may use: those in CUDA_VISIBLE_DEVICES or, if it is unset, all."""
    if (given := os.environ.get(VISIBLE)) is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def share(gpus: list[str], rank: int, size: int) -> str | None:
    """The GPUs of local rank `rank` as a CUDA_VISIBLE_DEVICES value; None if the variable need not change.

    Each rank gets consecutive entries of `gpus`, because neighbouring GPUs are likely to be well connected.
    Raises InputError if there are fewer GPUs than ranks on this machine.
    """
    given = (os.environ.get(name, "") for name in ("SLURM_GPUS_PER_TASK", "SLURM_GPU_BIND"))
    # SLURM_TRES_PER_TASK may list cores without GPUs.
    bound = any(value not in ("", "none") for value in given)
    if not gpus or bound or "gpu" in os.environ.get("SLURM_TRES_PER_TASK", ""):
        return None  # there are no GPUs, or SLURM has already assigned them to tasks
    if len(gpus) < size:
        raise InputError(
            f"{size} ranks on one machine share {len(gpus)} GPUs ({VISIBLE}={','.join(gpus)}), but each needs at "
            "least one: request more GPUs (model.resources: ranks, gpus_per_rank) or start fewer ranks."
        )
    each = len(gpus) // size
    return ",".join(gpus[rank * each : (rank + 1) * each])
