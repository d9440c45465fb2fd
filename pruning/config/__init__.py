"""Make cells from Hydra configurations: the groups of `conf/`, their classes, and the types of the top level."""
