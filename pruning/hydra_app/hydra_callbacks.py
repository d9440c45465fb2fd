"""The callback that Hydra runs before it starts a sweep."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from pruning.core.errors import InputError


class CheckResults(Callback):
    """Refuse a results folder that cannot be written, before Hydra writes its multirun.yaml there."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Exit with a plain message if the folder is unusable; Hydra would only warn of an InputError and go on."""
        from pruning.core.atomic_files import check_writable

        try:
            check_writable(Path(config.paths.results).expanduser().resolve())
        except InputError as error:
            print(error, file=sys.stderr)  # noqa: T201
            raise SystemExit(2) from None
