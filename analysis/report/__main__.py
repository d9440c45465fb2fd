"""The command `python -m analysis.report`."""

from .page import main

if __name__ == "__main__":
    main()
