"""The command `python -m analysis.fig5_variance_shares`; see `analysis/figures/fig5_variance_shares.py`."""

from .figures.fig5_variance_shares import main

if __name__ == "__main__":
    main()
