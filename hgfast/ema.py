"""The moving average of a network's weights while it is trained, which is steadier than the weights of any one step.

What may enter: averaging weights over steps. Which of the two networks is validated, and what is stored, is for the loop to say.

torch.optim.swa_utils.AveragedModel is not used: it counts in a tensor and takes that to the device at every update, for which the
host waits, and it sorts the tensors into groups anew each time.
"""

from __future__ import annotations

from copy import deepcopy

import torch

from hgfast.model import StackedHourglass


class MovingAverage:
    """`network` is an exponential moving average of `model`: parameters and BatchNorm's running statistics; counters are copied.

    It is a copy in eval mode, on the same device and in the same memory format, that takes no gradient.

    Args:
        model: already on its device, which it must not leave; its present weights are where the average starts.
        decay: the most that is kept of the average in an update, in [0, 1).
    """

    def __init__(self, model: StackedHourglass, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.network = deepcopy(model).requires_grad_(False).eval()
        ours = [*self.network.parameters(), *self.network.buffers()]
        theirs = [*model.parameters(), *model.buffers()]
        real = [one.is_floating_point() for one in ours]
        self._averages = [one for one, smooth in zip(ours, real) if smooth]
        self._currents = [one.detach() for one, smooth in zip(theirs, real) if smooth]
        self._copies = [one for one, smooth in zip(ours, real) if not smooth]
        self._counters = [one for one, smooth in zip(theirs, real) if not smooth]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the model's weights as they are now. Queues work on the device and waits for none of it."""
        torch._foreach_lerp_(self._averages, self._currents, 1 - decay_at(self.updates, self.decay))
        if self._copies:
            torch._foreach_copy_(self._copies, self._counters)
        self.updates += 1


def decay_at(update: int, decay: float) -> float:
    """What update number `update`, from 0, keeps of the average: little at first, so that the untrained weights are forgotten.

    It averages over about the last twentieth of the steps done, 1 / (1 - decay) at the most: with 0.999, the last 1000 from
    step 19 000 on. Over twice as much it lagged behind at the end of short runs, as the rate falls to zero.
    """
    return min(decay, (1 + update) / (20 + update))
