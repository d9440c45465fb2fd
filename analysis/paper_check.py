"""The command `python -m analysis.paper_check`; see `analysis/paper/check.py`."""

from .paper.check import main

if __name__ == "__main__":
    main()
