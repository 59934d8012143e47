"""Synthetic people: bodies, clothes, scenes, and the layouts of MPII and COCO."""
