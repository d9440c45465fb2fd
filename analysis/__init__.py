"""Figures and tables from the files of a results folder. This package imports neither torch nor mlflow."""

from pruning.core.terminal import use_one_blas_thread

use_one_blas_thread()
