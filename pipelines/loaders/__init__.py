"""Loaders of batches: DALI, and OpenCV in worker processes."""
