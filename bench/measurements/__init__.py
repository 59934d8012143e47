"""The measurements behind the scripts of the same names."""
