"""Check a model before anything is computed: its files, its configuration and its tokenizer.

No weights are read. Only what is certainly wrong is refused; other faults are found when the weights are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping

from pruning.core.errors import InputError, UnskippableError
from pruning.models.architecture import check_config, check_stored
from pruning.models.handle import Model


def check_model(model: Model) -> None:
    """Check everything about a model that can be known without its weights.

    Raises InputError if the model cannot be pruned or loaded as configured, and UnreachableError if its configuration
    cannot be fetched.
    """
    if model.source == "local" and model.revision is not None:
        raise InputError(
            f"model.revision={model.revision} means nothing for the directory {model.path}: leave it out."
        )
    try:
        (check_config if model.is_gguf else check_stored)(model.config)
    except UnskippableError as error:
        raise InputError(f"model {model.name} ({model.path}): {error}") from error


def check_vocabulary(model: Model, ids: Mapping[str, int]) -> None:
    """Raise InputError if the tokenizer makes token ids for which the model has no embedding.

    `ids` holds the largest token id of each set of data. A special token, for example for images or padding, can lack
    an embedding. This is an error only if the token occurs in the data.
    """
    rows = getattr(model.config.get_text_config(decoder=True), "vocab_size", None)
    if not isinstance(rows, int):
        return
    added = getattr(model.tokenizer, "added_tokens_decoder", {})
    numbers = model.tokenizer.get_vocab().values()
    plain = [number for number in numbers if not getattr(added.get(number), "special", False)]
    check_ids(rows, {f"the tokenizer of {model.name}": max(plain, default=0)} | dict(ids))


def check_ids(rows: int, largest: Mapping[str, int]) -> None:
    """Raise InputError if a token id in `largest` is not below `rows`, the number of the model's embeddings."""
    for what, number in largest.items():
        if number >= rows:
            raise InputError(
                f"{what} has the token id {number}, and the model's vocabulary has {rows} tokens (0 to {rows - 1}): "
                "use the tokenizer that belongs to the model."
            )
