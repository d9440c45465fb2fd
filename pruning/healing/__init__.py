"""Healing: train the physically smaller model on text with a budget of tokens. `docs/healing.md` has the formulas."""
