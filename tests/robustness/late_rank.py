"""Run by torchrun in test_kill_and_resume.py: rank 0 dies after the rendezvous; after the restart it joins late."""

from __future__ import annotations

import os
import time

import torch

from hgfast.training import distributed

restarted = os.environ["TORCHELASTIC_RESTART_COUNT"] == "1"
if restarted and os.environ["RANK"] == "0":
    time.sleep(2)  # so that the other rank can find the store of the first start
ranks = distributed.init_distributed("cpu")
total = torch.ones(1)
torch.distributed.all_reduce(total)
if not restarted:
    time.sleep(1)  # the other rank receives its sum before this one exits
    os._exit(1)
print(f"RESULT {total.item():.0f}")
distributed.cleanup()
