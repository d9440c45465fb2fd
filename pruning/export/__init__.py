"""Write a smaller checkpoint: copy a model without its dropped blocks and prove it equal to the masked model."""
