"""Predictions, ground truth and submissions of pckh.py."""
