"""The command `python -m analysis.fig8_stability`; see `analysis/figures/fig8_stability.py`."""

from .figures.fig8_stability import main

if __name__ == "__main__":
    main()
