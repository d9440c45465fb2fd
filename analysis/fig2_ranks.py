"""The command `python -m analysis.fig2_ranks`; see `analysis/figures/fig2_ranks.py`."""

from .figures.fig2_ranks import main

if __name__ == "__main__":
    main()
