"""Run one cell or, with -m, a grid of cells.

python launch.py                                                 one cell with the defaults
python launch.py -m algo=one_shot,greedy objective=perplexity,margin ratio=0.1,0.2
python launch.py --help                                          all groups, options and settings
"""

from pruning.study.door import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
