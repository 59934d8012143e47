"""The renderer of synthetic data: camera, light, depth buffer, backgrounds."""
