"""The parts of the file check: images, annotations, splits, the stored result."""
