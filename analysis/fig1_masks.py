"""The command `python -m analysis.fig1_masks`; see `analysis/figures/fig1_masks.py`."""

from .figures.fig1_masks import main

if __name__ == "__main__":
    main()
