"""The command `python -m analysis.fig7_cost`; see `analysis/figures/fig7_cost.py`."""

from .figures.fig7_cost import main

if __name__ == "__main__":
    main()
