"""The command `python -m analysis.fig3_variance`; see `analysis/figures/fig3_variance.py`."""

from .figures.fig3_variance import main

if __name__ == "__main__":
    main()
