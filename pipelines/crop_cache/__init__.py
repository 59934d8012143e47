"""The files of the crop cache, and how a crop is created."""
