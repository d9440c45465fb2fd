"""The command `python -m analysis.archive`; see `analysis/data/archive.py`."""

from .data.archive import main

if __name__ == "__main__":
    main()
