"""Steps of gpu_check.py, and running one step."""
