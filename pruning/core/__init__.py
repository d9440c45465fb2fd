"""Values and files that every package uses: masks, scores, results, digests, errors. No torch, no Hydra."""

VERSION = "0.1.0"
