"""Facts that a transformers configuration shows without weights, such as whether blocks can be removed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pruning.core.errors import InputError, UnskippableError


def check_config(config: Any) -> None:
    """Raise UnskippableError if the configuration shows that single blocks cannot be removed."""
    if getattr(config, "is_encoder_decoder", False):
        raise UnskippableError("it is an encoder-decoder model: only decoder-only models can be pruned.")
    if shared := getattr(config.get_text_config(decoder=True), "num_kv_shared_layers", 0):
        raise UnskippableError(
            f"its last {shared} blocks reuse keys and values of earlier blocks, so no block can be removed alone."
        )


def check_stored(config: Any) -> None:
    """Raise UnskippableError if a stored configuration shows that its model cannot be pruned."""
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    check_config(config)
    text = config.get_text_config(decoder=True)
    for part in (config, text):
        if "/" in str(kernel := getattr(part, "_attn_implementation", None)):
            raise UnskippableError(
                f"its configuration names the attention kernel {kernel} of a hub, whose code would be fetched and "
                "run: remove attn_implementation from config.json."
            )
        settings = getattr(part, "quantization_config", None) or getattr(part, "compression_config", None)
        if settings:
            found = settings if isinstance(settings, dict) else vars(settings)
            raise UnskippableError(
                f"its weights are quantised ({found.get('quant_method') or 'of an unnamed method'}): only "
                "full-precision checkpoints and GGUF files can be pruned. Give the checkpoint that it was quantised "
                "from."
            )
    if causal_class(config) is None:
        raise UnskippableError(
            f"a {config.model_type} model is not a causal language model of transformers (its classes: "
            f"{', '.join(config.architectures or ['unknown'])}): only decoder-only models can be pruned. "
            "If it reads images or sound too, save its language model by itself."
        )
    if not isinstance(getattr(text, "num_hidden_layers", None), int):
        raise UnskippableError(
            f"the configuration of a {config.model_type} model does not give the number of its blocks "
            "(num_hidden_layers), so they cannot be found."
        )
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", True):
        raise UnskippableError(
            f"a {config.model_type} model is a masked language model, not a causal one: its predictions see later "
            "tokens. Give a model that predicts the next token."
        )


def check_token_ids(rows: int, largest: Mapping[str, int]) -> None:
    """Raise InputError if a token id in `largest` is `rows` or more; `rows` is the number of token embeddings."""
    for what, number in largest.items():
        if number >= rows:
            raise InputError(
                f"{what} has the token id {number}, and the model's vocabulary has {rows} tokens (0 to {rows - 1}): "
                "use the tokenizer that belongs to the model."
            )


def causal_class(config: Any) -> Any:
    """The transformers class of causal language models with this configuration; None if there is none."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    return MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)


def context_length_of(config: Any) -> int | None:
    """The longest input, in tokens, that this configuration allows; None if it sets no limit."""
    text = config.get_text_config(decoder=True)
    names = ("max_position_embeddings", "max_seq_len")  # MPT uses the second name
    lengths = (getattr(text, name, None) for name in names)
    return next((length for length in lengths if isinstance(length, int) and length > 0), None)


def rope_change_of(config: Any) -> int | None:
    """The input length above which LongRoPE changes the whole batch's position embeddings; None without LongRoPE."""
    ropes = getattr(config.get_text_config(decoder=True), "rope_parameters", None) or {}
    # `ropes` contains the settings for all layers, or one mapping with settings for each layer type.
    kinds = [ropes, *(kind for kind in ropes.values() if isinstance(kind, Mapping))]
    long = [kind for kind in kinds if kind.get("rope_type") == "longrope"]
    return min((kind["original_max_position_embeddings"] for kind in long), default=None)


def attention_kernel(config: Any) -> str:
    """The attention kernel for a model: sdpa if the model's class supports sdpa, else eager."""
    # If there is no class, loading reports what is wrong with the model.
    return "sdpa" if getattr(causal_class(config), "_supports_sdpa", False) else "eager"
