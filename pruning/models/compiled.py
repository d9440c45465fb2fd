"""Run blocks through torch.compile: the operations between their matrix products are fused into a few loops.

Compiled blocks round differently from the model's own code, so this is off by default. All shapes run through one
compiled form. With a form for each shape, a loss would depend on the order in which shapes came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from typing import Any

import torch

from pruning.core.errors import InputError
from pruning.models.block_probe import Blocks
from pruning.models.swap import swapped

# The number of compiled forms of a class of blocks. Blocks that differ, such as those with and without a sliding
# window, need one each. Beyond this limit, torch would run blocks uncompiled.
MOST_FORMS = 64


@contextmanager
def compiled(blocks: Blocks) -> Iterator[None]:
    """Within this context, blocks run compiled. The first use compiles them, which takes about a minute.

    Raises InputError if a block's method `forward` has been replaced, as accelerate does to move weights.
    """
    with ExitStack() as stack:
        stack.enter_context(torch._dynamo.config.patch(recompile_limit=MOST_FORMS))
        for module in blocks.modules:
            if "forward" in vars(module):
                raise InputError(
                    "forward.compile=true is for models on one device, but this one is spread over several devices, "
                    "or has weights on disk: set forward.compile=false."
                )
            stack.enter_context(
                swapped(module, "forward", partial(compiled_once(type(module).forward), module))
            )
        yield


@cache
def compiled_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled at its first use. One form serves all shapes."""
    return torch.compile(function, dynamic=True)


def check_compiler() -> None:
    """Raise InputError if there is no C++ compiler. torch.compile needs one on a CPU."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise InputError(
            "forward.compile=true needs a C++ compiler, but none was found: install g++ or clang++, or set "
            "forward.compile=false."
        ) from error
