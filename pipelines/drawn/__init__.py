"""Synthetic data sets: what their pictures show, and how they become the files of the official layouts.

What may enter: nothing; its modules are imported by name.
"""
