"""princeton-vl/pytorch_stacked_hourglass re-implemented, as a baseline."""
