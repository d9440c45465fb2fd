"""Refuse a model whose configuration alone shows that its blocks cannot be removed: no weights are read."""

from __future__ import annotations

from typing import Any

from pruning.core.errors import InputError, UnskippableError


def check_config(config: Any) -> None:
    """Raise UnskippableError if the configuration shows that a block cannot be removed alone."""
    if getattr(config, "is_encoder_decoder", False):
        raise UnskippableError(
            "it is an encoder-decoder model: only decoder-only language models can be pruned."
        )
    shared = getattr(config.get_text_config(decoder=True), "num_kv_shared_layers", 0)
    if shared:
        raise UnskippableError(
            f"its last {shared} blocks reuse keys and values of earlier blocks, so no block can be removed alone."
        )


def check_stored(config: Any) -> None:
    """Raise UnskippableError if the model that a stored configuration describes cannot be pruned.

    Beyond what `check_config` refuses, these are: quantised weights, a model that is no causal language model, and a
    masked language model, which the transformers library would load as a decoder.
    """
    check_config(config)
    for part in (config, config.get_text_config(decoder=True)):
        if "/" in str(kernel := getattr(part, "_attn_implementation", None)):
            raise UnskippableError(
                f"its configuration names the attention kernel {kernel} of a hub, whose code would be fetched and "
                "run: remove attn_implementation from config.json, and choose one with model.attention."
            )
    if (method := quantisation(config)) is not None:
        raise UnskippableError(
            f"its weights are quantised ({method}): only full-precision checkpoints and GGUF files can be pruned. "
            "Give the checkpoint that it was quantised from."
        )
    if causal_class(config) is None:
        raise UnskippableError(
            f"a {config.model_type} model is no causal language model of transformers (its classes: "
            f"{', '.join(config.architectures or ['unknown'])}): only decoder-only language models can be pruned. "
            "If it reads images or sound too, save its language model by itself."
        )
    if not isinstance(getattr(config.get_text_config(decoder=True), "num_hidden_layers", None), int):
        raise UnskippableError(
            f"the configuration of a {config.model_type} model does not give the number of its blocks "
            "(num_hidden_layers), so they cannot be found."
        )
    names = config.architectures or []
    if any(name.endswith("ForMaskedLM") for name in names) and not getattr(config, "is_decoder", True):
        raise UnskippableError(
            f"{names[0]} is a masked language model, not a causal one: its predictions see later tokens. Give a "
            "model that predicts the next token."
        )


def check_attention_left(config: Any, smaller: Any) -> None:
    """Raise InputError if the smaller configuration has only blocks without attention, and the other one has some.

    Such a model cannot generate with a cache: transformers counts the tokens in the cache of an attention block.
    """
    before, after = (_kinds(one) for one in (config, smaller))
    if any(map(_attends, before)) and after and not any(map(_attends, after)):
        raise InputError(
            f"no attention block would be left (of {sum(map(_attends, before))}), and a {config.model_type} model "
            "needs at least one: keep one of them."
        )


def _kinds(config: Any) -> list[str]:
    """The kind of each block of a hybrid model; empty if the configuration does not list the kinds."""
    text = config.get_text_config(decoder=True)
    kinds = getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None) or ()
    return [str(kind) for kind in kinds]


def _attends(kind: str) -> bool:
    return kind == "hybrid" or ("attention" in kind and "linear" not in kind)


def causal_class(config: Any) -> Any:
    """The class that transformers loads for this configuration as a causal language model; None if it has none."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    return MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)


def quantisation(config: Any) -> str | None:
    """The method by which the stored weights are quantised, such as `gptq`; None if they are not quantised."""
    for part in (config, config.get_text_config(decoder=True)):
        settings = getattr(part, "quantization_config", None) or getattr(part, "compression_config", None)
        if settings:
            found = settings if isinstance(settings, dict) else vars(settings)
            return str(found.get("quant_method") or "of an unnamed method")
    return None
