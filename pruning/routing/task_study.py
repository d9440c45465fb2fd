"""The settings of a study of tasks (`tasks`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pruning.calibration.items import EMBEDDED, check_template
from pruning.core.errors import InputError, check_known

TARGETS = ("loglikelihood", "margin")
ENDINGS = (".jsonl", ".json")
NEEDED = (
    "give tasks.folder=DIR, a folder with a file of items for each task: NAME.jsonl with lines such as "
    '{"question": "...", "choices": ["...", "..."], "answer": 0}'
)


@dataclass  # not frozen, because OmegaConf makes frozen dataclasses read-only
class TaskStudy:
    """Whether a command prunes for each task separately, and where the tasks are.

    Each file of items in `folder` is a task. If `embedded` is true, the items that come with this program are
    another task. `rewording` is a second wording of the prompts; it shows how much of the oracle's gain is
    chance (None: not measured). `target` is what the router predicts: the right answer's "loglikelihood", as
    in PuDDing, or the "margin" (negated, so that higher is better).
    """

    cross: bool = False
    folder: str | None = None
    embedded: bool = True
    rewording: str | None = "Q: {question}\nA:"
    target: str = "loglikelihood"

    @property
    def asked(self) -> bool:
        """Whether the command runs a study of tasks."""
        return self.cross or self.folder is not None

    def check(self) -> None:
        """Raise InputError if the target is unknown or the rewording is not a valid template."""
        check_known("tasks", self, target=TARGETS)
        if self.rewording is not None:
            check_template("tasks.rewording", self.rewording)

    def files(self) -> list[Path]:
        """The files of the tasks, sorted. Hidden files, such as those that macOS makes, are left out.

        Raises InputError if the folder is missing, there are fewer than two tasks, or two have the same name.
        """
        if self.folder is None:
            raise InputError(f"tasks.folder is not set, and at least two tasks are needed: {NEEDED}.")
        folder = Path(self.folder).expanduser()
        if not folder.is_dir():
            raise InputError(f"tasks.folder={self.folder}: there is no such folder; {NEEDED}.")
        shown = (path for path in folder.iterdir() if not path.name.startswith("."))
        files = sorted(path for path in shown if path.suffix in ENDINGS and path.is_file())
        if not files:
            raise InputError(f"tasks.folder={self.folder} holds no .jsonl or .json file: {NEEDED}.")
        if len(files) + self.embedded < 2:
            raise InputError(
                f"tasks.folder={self.folder} holds one task, {files[0].name}, and at least two are needed: add a "
                "file, or give tasks.embedded=true."
            )
        names = [*([EMBEDDED] if self.embedded else []), *(path.stem for path in files)]
        if twice := [name for name in names if names.count(name) > 1]:
            raise InputError(f"two tasks are named '{twice[0]}': give their files different names.")
        return files
