"""Ranks: who this process is, and the few collective operations a run needs. One process is a world of one.

What may enter: torch.distributed. Nothing else in the package calls it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hgfast.errors import HgfastError


@dataclass(frozen=True)
class Ranks:
    """This process's place in the job, and the device it uses."""

    rank: int
    world: int
    local_world: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0


def start(device: str, wait_minutes: float = 10.0) -> Ranks:
    """Join the job that torchrun describes in the environment, or be a job of one.

    Args:
        device: auto, cpu, cuda or cuda:N.
        wait_minutes: how long a rank waits for the others, here and later on.

    Raises:
        HgfastError: a device that is not there, or other ranks that do not come.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local, local_world = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if world > 1 and ":" in device:
        raise HgfastError(f"--device {device} is one GPU for {world} ranks: use --device cuda, and each takes its own")
    chosen = pick_device(device, local)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if world > 1:
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        with in_contact(rank):
            dist.init_process_group(
                backend,
                store=_meeting_place(world == local_world),
                rank=rank,
                world_size=world,
                timeout=timedelta(minutes=wait_minutes),
            )
    return Ranks(rank, world, local_world, chosen)


def _meeting_place(one_machine: bool) -> Any:
    """The store that torchrun offers. On one machine it outlives a restart, and ranks that are started again would look for
    the addresses of those before them: each start gets its own names. (Machines do not count restarts alike; the README
    says what to set there.)"""
    store, _, _ = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]  # the stubs lack it, and the next one
    if not one_machine:
        return store
    return dist.PrefixStore(f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)  # type: ignore[attr-defined]


def pick_device(device: str, local_rank: int = 0) -> torch.device:
    """auto is this rank's GPU where one is visible, else the CPU. Raises `HgfastError` for a device that is not there."""
    gpus = torch.cuda.device_count()
    try:
        wanted = torch.device(("cuda" if gpus else "cpu") if device == "auto" else device)
    except RuntimeError:
        wanted = None
    if wanted is None or wanted.type not in ("cpu", "cuda"):
        raise HgfastError(f"device {device!r} is unknown: use auto, cpu, cuda or cuda:N")
    if wanted.type == "cpu":
        return wanted
    index = local_rank if wanted.index is None else wanted.index
    if not 0 <= index < gpus:
        raise HgfastError(
            f"--device {device} on rank {local_rank}: {gpus or 'no'} GPUs are visible; use --device cpu, or fewer ranks"
        )
    return torch.device("cuda", index)


@contextmanager
def in_contact(rank: int) -> Iterator[None]:
    """Other ranks that are gone, or do not answer in time, are a `HgfastError` of those that notice it."""
    try:
        yield
    except RuntimeError as error:
        text = " ".join(str(error).split())
        if not isinstance(error, dist.DistError) and "gloo" not in text:
            raise
        reason = re.sub(r"^\[/\S+\] ", "", text).partition(". ")[0]  # without the line in their code
        raise HgfastError(
            f"rank {rank} has lost contact with another one, which has ended, or has not answered in the time of "
            f"--train.wait-minutes ({reason[:200]}): see what that one said"
        ) from error


def stop() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def broadcast_buffers(module: nn.Module) -> None:
    """Give every rank the first rank's buffers (BatchNorm's running statistics, which each rank gathers from its own shares)."""
    if dist.is_initialized():
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def gather(rows: Tensor) -> Tensor:
    """Every rank's rows (n_rank, ...), concatenated in the order of ranks; on the CPU."""
    rows = rows.cpu()
    if not dist.is_initialized():
        return rows
    parts: list[Tensor | None] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, rows)
    return torch.cat([part for part in parts if part is not None])


def largest(values: list[float], device: torch.device) -> list[float]:
    """Of each value the largest that any rank has, on every rank."""
    if not dist.is_initialized():
        return values
    shared = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return [float(value) for value in shared.cpu()]


def total(value: Tensor) -> float:
    """The sum of a scalar over ranks."""
    value = value.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(value)
    return float(value)
