"""The command `python -m pruning.export`."""

from pruning.export.pipeline import main

if __name__ == "__main__":
    main()
