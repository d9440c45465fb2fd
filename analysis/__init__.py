"""Figures and tables from the files of a results folder. Neither torch nor mlflow is needed here."""
