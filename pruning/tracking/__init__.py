"""Trackers, which copy results into MLflow. The result files are authoritative: MLflow can be rebuilt from them."""
