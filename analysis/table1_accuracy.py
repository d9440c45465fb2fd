"""The command `python -m analysis.table1_accuracy`; see `analysis/figures/table1_accuracy.py`."""

from .figures.table1_accuracy import main

if __name__ == "__main__":
    main()
