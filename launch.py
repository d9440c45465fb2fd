"""Run one cell or, with -m, a grid of cells: the same as `depth-pruning grid`.

python launch.py                                                 one cell with the defaults
python launch.py -m algo=one_shot,greedy objective=perplexity,margin ratio=0.1,0.2
python launch.py --help                                          all groups, options and settings
"""

import sys

from pruning import commands


def main() -> None:
    """Run `depth-pruning grid` with this program's command-line arguments."""
    sys.argv[1:1] = ["grid"]
    commands.main()


if __name__ == "__main__":
    main()
