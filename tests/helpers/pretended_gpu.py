"""A pretended GPU: tensors that report a CUDA device, hold their values in main memory and compute on the CPU.

A test can so run the whole program on `cuda:0` and `cuda:1` on a machine without a GPU. Where CUDA raises an error
because tensors of several devices are mixed, so does a pretended GPU; and it counts the copies between devices and
the times that the program waits for one. It does not show kernels, speed, memory, or how processes communicate.

A `DeviceTensor` wraps a CPU tensor. PyTorch itself takes it for a tensor on the meta device, because a build for
CPUs cannot differentiate tensors on a CUDA device; only the attribute `device` says `cuda:0`. A dispatch mode sees
each operation below autograd, so the backward pass is checked as well.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device
CPU, META = torch.device("cpu"), torch.device("meta")
aten = torch.ops.aten

# These operations take tensors of other devices; each of them copies.
COPIES = {aten.copy_.default, aten._to_copy.default}
# An index may be on the CPU, as on CUDA; it is then copied.
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
# The shapes or Python values of their results depend on values, so the program waits for the device.
WAITS = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.repeat_interleave.Tensor,
}
# They read only one element of an index or a table, which CUDA refuses if it is on the CPU, even a single number.
STRICT = {
    aten.gather.default,
    aten.index_select.default,
    aten.embedding.default,
    aten.scatter.src,
    aten.take.default,
}


@dataclass
class Traffic:
    """What crossed the devices' borders: copies to a device, copies to main memory, and waits for a device."""

    to_device: int = 0
    to_host: int = 0
    waits: int = 0
    between: int = 0
    operations: Counter[str] = field(default_factory=Counter)

    def reset(self) -> None:
        """Set all counts to 0."""
        self.to_device = self.to_host = self.waits = self.between = 0
        self.operations.clear()

    def wait(self, name: str) -> None:
        """Count a wait, under the name of the operation that waits."""
        self.waits += 1
        self.operations[name] += 1

    def moved(self, source: torch.device, target: torch.device) -> None:
        """Count a copy between two devices. The program waits for a copy to main memory."""
        if source.type == target.type == "cpu" or source == target:
            return
        if target.type == "cpu":
            self.to_host += 1
            self.wait("copy to main memory")
        elif source.type == "cpu":
            self.to_device += 1
        else:
            self.between += 1


@dataclass
class Machine:
    """The pretended GPUs: how many, the bytes of each, the bytes in use, and whether they compute in float64."""

    gpus: int
    memory: int
    used: int = 0
    float64: bool = True
    traffic: Traffic = field(default_factory=Traffic)


_machine: list[Machine] = []


class DeviceTensor(Tensor):
    """A tensor on a pretended GPU. `inner` holds its values on the CPU; `where` is the device that it reports.

    In the backward pass, PyTorch makes some tensors from nothing but the options of others. Such a tensor reports no
    device (`where` is None) until an operation uses it together with a tensor that does.
    """

    inner: Tensor
    where: torch.device | None

    @staticmethod
    def __new__(cls, data: Any, requires_grad: bool = False, **_: Any) -> Any:
        """A parameter: libraries make new parameters by calling the old one's class."""
        return nn.Parameter(data, requires_grad)

    @property
    def device(self) -> torch.device:
        return self.where or torch.device("cuda", 0)

    is_cuda = property(lambda _: True)
    is_meta = property(lambda _: False)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"DeviceTensor({self.inner!r}, device={self.where})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            made = on_device(self.inner.clone(), self.where)
            memo[id(self)] = (
                nn.Parameter(made, self.requires_grad) if isinstance(self, nn.Parameter) else made
            )
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _restored, (self.inner, self.where)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            return _called(func, args, dict(kwargs or {}))

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})


def on_device(inner: Tensor, where: torch.device | None) -> DeviceTensor:
    """A tensor on a pretended GPU, with the values of a CPU tensor that it shares."""
    if inner.dtype is torch.float64 and _machine and not _machine[0].float64:
        raise TypeError("this device has no float64: use float32.")
    made: DeviceTensor = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
        DeviceTensor,
        inner.shape,
        strides=inner.stride(),
        storage_offset=inner.storage_offset(),
        dtype=inner.dtype,
        layout=inner.layout,
        device=META,
    )
    made.inner, made.where = inner, where
    return made


def _restored(inner: Tensor, where: torch.device) -> DeviceTensor:
    return on_device(inner, where)


class _Functions(TorchFunctionMode):
    """Sees each function of PyTorch, also those that get no tensor of a pretended GPU, such as `x.to(0)`."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            return _called(func, args, dict(kwargs or {}))


def _called(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Call a function of PyTorch, or what stands for it on a pretended GPU."""
    if isinstance(kwargs.get("device"), int | str):
        kwargs["device"] = torch.device(kwargs["device"])
    if func is scaled_dot_product_attention and isinstance(args[0], DeviceTensor):
        return _attention(*args, **kwargs)
    if func in (torch.tensor, torch.as_tensor) and (device := kwargs.pop("device", None)) is not None:
        return _to(func(*args, **kwargs), device)
    name = getattr(func, "__name__", "")
    leaves = tree_leaves((args, kwargs))
    ours = [leaf.device for leaf in leaves if isinstance(leaf, DeviceTensor)]
    with _within(ours[0] if ours and META not in leaves else None):
        return _replaced(name, func, args, kwargs)


def _replaced(name: str, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    if name in MOVES or (name in BY_NAME and isinstance(args[0], DeviceTensor)):
        replaced = (MOVES | BY_NAME)[name]
        if func in (getattr(Tensor, name), replaced):
            return replaced(*args, **kwargs)
    return func(*args, **kwargs)


# The devices of the functions that run: such a function makes tensors of its own there.
_composite: list[torch.device | None] = []


@contextmanager
def _within(device: torch.device | None) -> Iterator[None]:
    _composite.append(device)
    try:
        yield
    finally:
        _composite.pop()


class _Operations(TorchDispatchMode):
    """Sees each operation, also those whose arguments are all on the CPU, such as a copy to a GPU."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run an operation on the CPU, after a check of its devices, and place its results."""
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    ours = [tensor for tensor in given if isinstance(tensor, DeviceTensor)]
    asked = kwargs.get("device")
    backward = torch._C._current_graph_task_id() != -1
    lost = (
        asked == META
        and not ours
        and (backward or _composite[-1:] not in ([], [None]))
        and func is not aten._to_copy.default
    )
    if not ours and not lost and (asked is None or asked.type != "cuda"):
        return func(*args, **kwargs)
    traffic = _machine[0].traffic
    where = _composite[-1] if lost and _composite else _checked(func, args, given, ours)
    if asked is not None and asked.type == "cuda":
        where = torch.device("cuda", asked.index or 0)
        if where.index >= _machine[0].gpus:
            raise RuntimeError(f"CUDA error: invalid device ordinal ({where}).")
    elif asked is not None and asked.type == "cpu":
        where = CPU
    if func is aten._to_copy.default:
        traffic.moved(given[0].device, where or given[0].device)
    elif func is aten.copy_.default:
        traffic.moved(given[1].device, given[0].device)
    elif func in INDEXED:
        for tensor in given[1:]:
            traffic.moved(tensor.device, where or CPU)
            if tensor.dtype in (torch.bool, torch.uint8) and func is aten.index.Tensor:
                traffic.wait(str(func))
    elif func in WAITS:
        traffic.wait(str(func))
    inner = {id(tensor.inner): tensor for tensor in ours}
    new_args, new_kwargs = tree_map(
        lambda x: x.inner if isinstance(x, DeviceTensor) else x, (args, dict(kwargs))
    )
    if asked is not None:
        new_kwargs["device"] = CPU
    new_kwargs.pop("pin_memory", None)

    def placed(value: Any) -> Any:
        if not isinstance(value, Tensor) or where == CPU:
            return value
        return inner[id(value)] if id(value) in inner else on_device(value, where)

    outputs = func(*new_args, **new_kwargs)
    for tensor in ours:  # an operation in place gives a tensor without device one
        if tensor.where is None and where != CPU:
            tensor.where = where
    if func is aten.copy_.default:
        return given[0]
    return tree_map(placed, outputs)


def _checked(
    func: Any, args: Sequence[Any], given: Sequence[Tensor], ours: Sequence[DeviceTensor]
) -> torch.device | None:
    """The device of an operation's results. Raises RuntimeError if CUDA would, because devices are mixed."""
    if func in COPIES:
        return given[0].device if func is aten.copy_.default else getattr(given[0], "where", CPU)
    found = {tensor.where for tensor in ours if tensor.where is not None}
    others = [tensor for tensor in given if not isinstance(tensor, DeviceTensor)]
    if func in INDEXED and isinstance(
        args[0], DeviceTensor
    ):  # indices may be on the CPU, values may be one number
        others = [
            value for value in args[2:3] if isinstance(value, Tensor) and not isinstance(value, DeviceTensor)
        ]
    if func not in STRICT:
        others = [tensor for tensor in others if tensor.dim() > 0]
    found |= {tensor.device for tensor in others}
    if len(found) > 1:
        names = ", ".join(sorted(map(str, found)))
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {names}! ({func})"
        )
    return next(iter(found), None)


class _Move(torch.autograd.Function):
    """A copy to a different device, whose gradient is copied back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
        ctx.source, ctx.dtype = x.device, x.dtype
        return aten._to_copy.default(x, device=device, dtype=dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return aten._to_copy.default(gradient, device=ctx.source, dtype=ctx.dtype), None, None


def _to(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`Tensor.to`; PyTorch's own compares devices as it sees them."""
    kwargs = {"device" if name == "other" else name: value for name, value in kwargs.items()}
    args = tuple(torch.device("cuda", value) if type(value) is int else value for value in args)
    like = [value for value in (*args, kwargs.get("device")) if isinstance(value, Tensor)]
    if like:
        device, dtype = like[0].device, like[0].dtype
    else:
        device, dtype, *_ = torch._C._nn._parse_to(*args, **{k: v for k, v in kwargs.items() if k != "copy"})
    device, dtype = device or x.device, dtype or x.dtype
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
    if device == x.device and dtype == x.dtype and not kwargs.get("copy"):
        return x
    if device == META:
        with _within(None):
            return torch.empty_strided(x.size(), x.stride(), dtype=dtype, device=META)
    if device != x.device and torch.is_grad_enabled() and x.requires_grad:
        return _Move.apply(x, device, dtype)
    return aten._to_copy.default(x, device=device, dtype=dtype)


def _set_data(x: Tensor, value: Tensor) -> None:
    if not isinstance(x, DeviceTensor) or not isinstance(value, DeviceTensor):
        raise NotImplementedError("data of one device cannot become that of another.")
    x.inner, x.where = value.inner, value.where


def _numpy(x: Tensor, **_: Any) -> Any:
    raise TypeError(f"can't convert {x.device} device type tensor to numpy. Use Tensor.cpu() first.")


def _listed(x: Tensor) -> Any:
    return _to(x, CPU).detach().tolist()


MOVES: dict[str, Callable[..., Any]] = {
    "to": _to,
    "cuda": lambda x, device=0, **_: _to(x, torch.device("cuda", device)),
}
BY_NAME: dict[str, Callable[..., Any]] = {
    "cpu": lambda x, **_: _to(x, CPU),
    "type_as": lambda x, other: _to(x, other),
    "tolist": _listed,
    "numpy": _numpy,
    "__array__": _numpy,
    "data_ptr": lambda x: x.inner.data_ptr(),
    "untyped_storage": lambda x: x.inner.untyped_storage(),
}


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention`, by the kernel that a CPU uses, or by plain operations if it does not apply."""
    if enable_gqa and query.shape[-3] != key.shape[-3]:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        lowest = torch.zeros(attn_mask.shape, dtype=query.dtype, device=attn_mask.device)
        attn_mask = lowest.masked_fill(~attn_mask, -math.inf)
    if query.dim() == 4 and dropout_p == 0.0 and query.shape[-1] == value.shape[-1]:
        kernel = aten._scaled_dot_product_flash_attention_for_cpu.default
        return kernel(query, key, value, 0.0, is_causal, attn_mask=attn_mask, scale=scale)[0]  # type: ignore[no-any-return]
    scores = query @ key.transpose(-1, -2) * (scale or query.shape[-1] ** -0.5)
    if is_causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -math.inf)
    if attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1).to(value.dtype) @ value


class _DeviceType(type):
    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, DEVICE)


class _Device(metaclass=_DeviceType):
    """`torch.device`, for which a number means a GPU; PyTorch's own refuses numbers if it sees no GPU."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return DEVICE("cuda", args[0]) if [type(one) for one in args] == [int] else DEVICE(*args, **kwargs)


class _Event:
    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def record(self, *_: Any) -> None:
        pass

    def synchronize(self) -> None:
        _machine[0].traffic.wait("event")

    def elapsed_time(self, _: _Event) -> float:
        return 1.0


@contextmanager
def pretended_gpus(count: int = 1, memory: int = 1 << 34, **settings: Any) -> Iterator[Machine]:
    """Within this context, PyTorch reports `count` GPUs with `memory` bytes each, which are pretended."""
    machine = Machine(count, memory, **settings)

    def waits(*_: Any, **__: Any) -> None:
        machine.traffic.wait("synchronize")

    answers: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "device_count": lambda: count,
        "current_device": lambda: 0,
        "set_device": lambda *_: None,
        "_lazy_init": lambda: None,
        "is_initialized": lambda: True,
        "mem_get_info": lambda *_: (memory - machine.used, memory),
        "memory_reserved": lambda *_: machine.used,
        "memory_allocated": lambda *_: machine.used,
        "max_memory_allocated": lambda *_: machine.used,
        "max_memory_reserved": lambda *_: machine.used,
        "reset_peak_memory_stats": lambda *_: None,
        "empty_cache": lambda: None,
        "synchronize": waits,
        "get_device_name": lambda *_: "pretended GPU",
        "get_device_capability": lambda *_: (9, 0),
        "is_bf16_supported": lambda *_, **__: True,
        "manual_seed": lambda *_: None,
        "manual_seed_all": lambda *_: None,
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": lambda *_: None,
        "Event": _Event,
    }
    with ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(patch.object(torch.cuda, name, answer))
        stack.enter_context(patch.object(torch, "device", _Device))
        _machine.append(machine)
        stack.callback(_machine.clear)
        stack.enter_context(_Operations())
        stack.enter_context(_Functions())
        yield machine
