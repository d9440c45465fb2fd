"""From a Hydra configuration to a cell: the groups of `conf/`, their classes, and the types of the top level."""
