"""Synthetic data sets: rendered images and their files in the layouts of real data sets."""
