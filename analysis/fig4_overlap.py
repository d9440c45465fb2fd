"""The command `python -m analysis.fig4_overlap`; see `analysis/figures/fig4_overlap.py`."""

from .figures.fig4_overlap import main

if __name__ == "__main__":
    main()
