"""Healing: train the smaller model on a limited number of text tokens. `docs/healing.md` has the formulas."""
