"""Measurement, records, and the networks and images that are measured."""
