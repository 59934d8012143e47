"""Skeletons, heatmaps, charts and galleries drawn for people."""
