"""The statistics of the figures, one topic a file. Frames in, frames or small values out; no drawing, no files."""
