"""The command `python -m analysis.table3_search`; see `analysis/figures/table3_search.py`."""

from .figures.table3_search import main

if __name__ == "__main__":
    main()
