"""Modules that the export scripts share."""
