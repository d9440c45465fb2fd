"""Figures and tables. A file `figN_NAME.py` is the command `figN`; if it has a caption, the report includes it."""
