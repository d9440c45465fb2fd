"""The statistics of the figures, one topic per module. Functions map frames to frames or values and write no file."""
