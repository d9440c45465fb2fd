"""Several processes with one task, its ranks: who does what, and sums over all. With one process, nothing happens.

Each rank holds the whole model and takes its share of the samples. What they tell each other are losses, kilobytes
of float64 in memory, so gloo carries it on every machine, with GPUs or without, and no GPU waits for another.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from pruning.core.errors import RankError

if TYPE_CHECKING:
    from pruning.distributed.rendezvous import Rendezvous

T = TypeVar("T")

# A rank that dies is noticed at once. These are for one that hangs, or that never starts.
PATIENCE, ARRIVAL = timedelta(hours=2), timedelta(minutes=10)
FAILURE = "failure"  # what the first rank to fail says, under this name

_store: Any = None


@contextmanager
def joined_ranks() -> Iterator[None]:
    """Within this context, the ranks that torchrun or submitit started work as one; contexts nest.

    Each sees its share of the GPUs. Raises RankError where a rank does not come and, within the context, where one
    ends before the others; what it failed of is told to all.
    """
    from pruning.distributed.rendezvous import find_rendezvous

    place = find_rendezvous()
    if place is None or _world()[1] > 1:
        yield
        return
    place.take_share()
    _join(place)
    try:
        yield
    except BaseException as error:
        _tell(error)
        raise
    finally:
        _leave()


def world_size() -> int:
    """How many ranks there are."""
    return _world()[1]


def is_first() -> bool:
    """Whether this is the rank that writes files."""
    return _world()[0] == 0


def share_of(tasks: Sequence[T]) -> Sequence[T]:
    """This rank's share of some tasks, dealt out like cards."""
    rank, size = _world()
    return tasks[rank::size]


def gather(results: Sequence[T]) -> list[T]:
    """The results of all ranks for the tasks that `own` dealt out, in the order of the tasks, on all of them."""
    import torch.distributed as dist

    size = world_size()
    if size == 1:
        return list(results)
    hands: list[Any] = [None] * size
    _heard(lambda: dist.all_gather_object(hands, list(results)))
    return [hands[number % size][number // size] for number in range(sum(map(len, hands)))]


def all_sum(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The sum over ranks, in float64, the same on all of them."""
    import torch
    import torch.distributed as dist

    if world_size() == 1:
        return values
    tensor = torch.from_numpy(values.copy())
    _heard(lambda: dist.all_reduce(tensor))
    summed: np.ndarray[Any, Any] = tensor.numpy()
    return summed


def all_max(value: float) -> float:
    """The largest value that any rank has, so that all of them plan alike."""
    import torch
    import torch.distributed as dist

    if world_size() == 1:
        return value
    tensor = torch.tensor(value, dtype=torch.float64)
    _heard(lambda: dist.all_reduce(tensor, dist.ReduceOp.MAX))
    return float(tensor)


def broadcast(value: T) -> T:
    """What the first rank says, on all of them."""
    import torch.distributed as dist

    if world_size() == 1:
        return value
    box = [value]
    _heard(lambda: dist.broadcast_object_list(box))
    return box[0]


def on_first(action: Callable[[], T]) -> T:
    """Let the first rank do something; all get what it returns, or raise what it raises."""
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
    """The failure of this rank or, if it has none, of any other; None where all have succeeded."""
    if world_size() == 1:
        return error
    told = gather([None if error is None else f"{type(error).__name__}: {error}"])
    others = [text for text in told if text is not None]
    return (
        error
        if error is not None or not others
        else RankError(f"another rank of this cell failed: {others[0]}")
    )


def _world() -> tuple[int, int]:
    """This process's rank, and how many there are."""
    dist = sys.modules.get("torch.distributed")  # where it was never imported, nobody has met
    if dist is None or not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def _join(place: Rendezvous) -> None:
    global _store
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    try:
        met = rendezvous(place.address, place.rank, place.size, timeout=ARRIVAL)
        store, rank, size = next(iter(met))
        _store = PrefixStore("pruning", store)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        where = f"rank {place.rank} of {place.size} met no others at {place.address}"
        raise RankError(f"{where} ({error}).") from error


def _leave() -> None:
    global _store
    import torch.distributed as dist

    _store = None
    if dist.is_initialized():
        dist.destroy_process_group()


def _tell(error: BaseException) -> None:
    """Leave word of a failure for those who will miss this rank."""
    if _store is None or isinstance(error, RankError):
        return
    try:
        _store.set(FAILURE, f"{type(error).__name__}: {error}")
    except RuntimeError:  # the rank that keeps what is told has gone
        return


def _heard(exchange: Callable[[], Any]) -> None:
    """Exchange something with the others. Raises RankError, with what is known, where one of them is gone."""
    try:
        exchange()
    except RuntimeError as error:
        why = f" ({told})" if (told := _why()) else ""
        raise RankError(
            f"another rank of this cell ended or did not answer{why}: its own log says more."
        ) from error


def _why() -> str:
    try:
        known = _store is not None and _store.check([FAILURE])
        return str(_store.get(FAILURE).decode()) if known else ""
    except RuntimeError:
        return ""
