"""Values and files that every package uses: masks, scores, results, errors. Imports neither torch nor Hydra."""

import os

VERSION = "0.1.0"
PROCESS = (
    os.getpid()
)  # the process that imported this package; a process forked from it has a different number
