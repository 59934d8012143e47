"""Synthetic hands: skeletons, solids, shading, scenes, and the layout of FreiHAND."""
