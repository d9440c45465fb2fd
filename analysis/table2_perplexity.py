"""The command `python -m analysis.table2_perplexity`; see `analysis/figures/table2_perplexity.py`."""

from .figures.table2_perplexity import main

if __name__ == "__main__":
    main()
