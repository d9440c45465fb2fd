"""Load weights without the progress bars and warnings of transformers."""

from __future__ import annotations


class quiet:  # noqa: N801 - reads as a verb in `with quiet():`
    """Silence transformers' progress bars and warnings while weights are loaded."""

    def __enter__(self) -> None:
        from transformers.utils import logging as hf_logging

        self.level = hf_logging.get_verbosity()
        hf_logging.set_verbosity_error()
        hf_logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging as hf_logging

        hf_logging.set_verbosity(self.level)
        hf_logging.enable_progress_bar()
