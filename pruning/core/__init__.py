"""Values and files that every package uses: masks, scores, results, errors. Imports neither torch nor Hydra."""

VERSION = "0.1.0"
