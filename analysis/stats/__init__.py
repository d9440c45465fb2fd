"""The statistics of the figures, one topic per module. They map frames to frames or values, and write no files."""
