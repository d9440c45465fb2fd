"""Make cells from Hydra configurations; find the groups of `conf/`, their options and their classes."""
