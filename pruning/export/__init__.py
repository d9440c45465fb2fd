"""Write a smaller checkpoint: blocks cut out of a model in a stream, proven equal to the masked model."""
