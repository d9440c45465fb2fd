"""Figures and tables from the files of a results folder. This package imports neither torch nor mlflow."""
