"""The command `python -m analysis.fig6_crossed`; see `analysis/figures/fig6_crossed.py`."""

from .figures.fig6_crossed import main

if __name__ == "__main__":
    main()
