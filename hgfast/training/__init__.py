"""The training loop and its parts: optimizer, mixed precision, EMA, ranks, logging, checkpoints to keep."""
