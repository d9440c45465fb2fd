"""Figures and tables. A file `figN_NAME.py` is the command `figN`, and if it has a caption, a part of the report."""
