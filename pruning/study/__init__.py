"""The commands of the command line: compose cells, check them all, run them, and sum up."""
