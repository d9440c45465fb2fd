"""Check a model before anything is computed: its configuration, the files of its weights, and its tokenizer.

No weights are read. Only what is surely wrong is refused; the rest is found when the weights are loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pruning.core.errors import InputError, PruningError, UnskippableError, first_line
from pruning.core.mask import Mask
from pruning.models import loader, pruned_config, spec
from pruning.models.directory import INDEX, SINGLE, stored_shapes
from pruning.models.loader import check_stored_tensors
from pruning.models.spec import Model, attention_kernel

log = logging.getLogger(__name__)

INVALID = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    ZeroDivisionError,
)  # raised for impossible configurations
UNBUILDABLE = (
    RuntimeError,
    NotImplementedError,
    AttributeError,
    ImportError,
)  # loading says more about these


@lru_cache(maxsize=64)
def check_model(settings: Model) -> None:
    """Check everything about a model that can be known without its weights.

    Raises InputError if it cannot be pruned or loaded as configured, UnreachableError if its configuration cannot be
    fetched.
    """
    if settings.source == "local" and settings.revision is not None:
        raise InputError(
            f"model.revision={settings.revision} means nothing for the directory {settings.path}: leave it out."
        )
    if settings.source == "packaged" and settings.gguf_file is not None:
        raise InputError(
            f"model.gguf_file={settings.gguf_file} means nothing for the packaged model {settings.path}: leave it "
            "out, or give model=local model.path=FILE.gguf."
        )
    config, where = loader.config(settings), loader.locate(settings)[1]
    gguf = "gguf_file" in where
    try:
        (spec.check_config if gguf else spec.check_stored)(config)
    except UnskippableError as error:
        raise InputError(f"model {settings.name} ({settings.path}): {error}") from error
    attention_kernel(settings, config)
    if (empty := _skeleton(settings, config)) is None or gguf:
        return
    if (folder := loader.stored_folder(settings)) is None:
        return
    if not (stored := stored_shapes(folder)):
        raise InputError(
            f"{folder} holds neither {SINGLE} nor {INDEX}: give a directory that save_pretrained wrote."
        )
    check_stored_tensors(f"model {settings.name} ({folder})", empty, stored)


@lru_cache(maxsize=64)
def check_renumbering(settings: Model, exported: bool) -> None:
    """Log a warning if some choices of blocks cannot be exported, because a block's number decides what it is.

    Before the search, it is not known which blocks will be chosen. So if the model is to be `exported` after it,
    raises InputError instead: most searches would end without an export.
    """
    config = loader.config(settings)
    first = Mask(loader.n_blocks(settings), (0,))  # without block 0, all other blocks get new numbers
    try:
        pruned_config.check_same_blocks(config, pruned_config.pruned_config(config, first), first)
    except PruningError as error:
        what = (
            f"model {settings.name}: not every choice of blocks can be exported, or measured with eval=speed or "
            f"eval=generation. For example, without block 0: {error}"
        )
        if exported:
            raise InputError(
                f"{what} Leave export= out, and try `python -m pruning.export CELL out=DIR` after the search."
            ) from error
        log.warning(what)


def check_vocabulary(settings: Model, ids: Mapping[str, int]) -> None:
    """Raise InputError if the tokenizer makes token ids for which the model has no embedding.

    `ids` holds the largest token id of each set of data. A tokenizer can have more special tokens than the model has
    embeddings, for example for images or padding. This is an error only if such a token occurs in the data.
    """
    rows = getattr(loader.config(settings).get_text_config(decoder=True), "vocab_size", None)
    if not isinstance(rows, int):
        return
    tokenizer = loader.tokenizer(settings)
    added = getattr(tokenizer, "added_tokens_decoder", {})
    plain = [
        number
        for number in tokenizer.get_vocab().values()
        if not getattr(added.get(number), "special", False)
    ]
    largest = {f"the tokenizer of {settings.name}": max(plain, default=0)} | dict(ids)
    check_ids(rows, largest)


def check_ids(rows: int, largest: Mapping[str, int]) -> None:
    """Raise InputError if the largest token id of some data has none of the `rows` embeddings of a model."""
    for what, number in largest.items():
        if number >= rows:
            raise InputError(
                f"{what} has the token id {number}, and the model's vocabulary has {rows} tokens (0 to {rows - 1}): "
                "use the tokenizer that belongs to the model."
            )


def _skeleton(settings: Model, config: Any) -> Any:
    try:
        return pruned_config.skeleton(config)
    except INVALID as error:
        raise InputError(
            f"model {settings.name} ({settings.path}): transformers cannot build a model from its config.json "
            f"({first_line(error)}): correct it, or fetch the model again."
        ) from error
    except UNBUILDABLE:
        return None
