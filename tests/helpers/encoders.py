"""Tiny encoders in directories, as `router.encoder=hub router.path=DIR` reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def encoder_folder(folder: Path, tokenizer: Any, kind: str = "Bert", seed: int = 0, **settings: Any) -> Path:
    """A random encoder of one layer and 16 dimensions, with this tokenizer."""
    import torch
    import transformers

    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = getattr(transformers, f"{kind}Config")(vocab_size=512, **sizes, **settings)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
