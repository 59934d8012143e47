"""Run by torchrun in test_lives.py: ranks meet, the first dies; started again it comes late, and they must meet again."""

from __future__ import annotations

import os
import time

import torch

from hgfast import distributed

again = os.environ["TORCHELASTIC_RESTART_COUNT"] == "1"
if again and os.environ["RANK"] == "0":
    time.sleep(2)  # long enough for the others to find what is left of the first start
ranks = distributed.start("cpu")
total = torch.ones(1)
torch.distributed.all_reduce(total)
if not again:
    time.sleep(1)  # the other one has its sum before this one is gone
    os._exit(1)
print(f"RESULT {total.item():.0f}")
distributed.stop()
