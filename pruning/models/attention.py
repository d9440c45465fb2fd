"""Choose the attention kernel of a model among those that its class supports."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from pruning.core.errors import InputError
from pruning.models.config_check import causal_class
from pruning.models.spec import AUTO, Model

# For each kernel but "eager", which every class supports: the attribute by which a class of transformers says that it
# supports the kernel. The first one that a class supports is its default.
FLAGS = {
    "sdpa": "_supports_sdpa",
    "flash_attention_2": "_supports_flash_attn",
    "flex_attention": "_supports_flex_attn",
}

FLASH = ("flash_attn", "kernels")  # packages from which transformers takes the kernel of flash_attention_2


def attention_kernel(settings: Model, config: Any) -> str:
    """The kernel to load a model with: the chosen one, or for `auto` sdpa if the class supports it, else eager.

    Raises InputError, with the kernels that the class supports, if it does not support the chosen one, or if the
    package of the chosen one is not installed.
    """
    if (kind := causal_class(config)) is None:
        return "eager"  # loading then says what is wrong with the model
    supported = [name for name, flag in FLAGS.items() if getattr(kind, flag, False)]
    if settings.attention == AUTO:
        return "sdpa" if "sdpa" in supported else "eager"
    if settings.attention not in (*supported, "eager"):
        raise InputError(
            f"model.attention={settings.attention} is not supported by {kind.__name__} (model {settings.name}): "
            f"choose {', '.join([AUTO, *supported])} or eager."
        )
    if settings.attention == "flash_attention_2" and not any(map(find_spec, FLASH)):
        raise InputError(
            f"model.attention=flash_attention_2 (model {settings.name}) needs the package {FLASH[0]} or {FLASH[1]}, "
            "and neither is installed: install one, or choose auto or sdpa."
        )
    return settings.attention
