"""Readers for each data set layout, and for the file formats that they use."""
