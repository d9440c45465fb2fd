"""Trackers that mirror results into MLflow. The files are the truth; MLflow can be rebuilt from them."""
