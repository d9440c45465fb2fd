"""Healing: train the physically smaller model on text for a budget of tokens. `docs/healing.md` has the formulas."""
