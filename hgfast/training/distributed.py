"""Ranks and collective operations; a single process is a world of size 1. The only module that calls torch.distributed."""

from __future__ import annotations

import inspect
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hgfast.errors import HgfastError, one_line
from hgfast.system_info import rank_variables


@dataclass(frozen=True)
class Ranks:
    """This process's rank, the number of ranks in the job and on this machine, and this rank's device."""

    rank: int
    world_size: int
    local_world_size: int
    device: torch.device

    @classmethod
    def single(cls, device: torch.device) -> Ranks:
        """Return a world of size 1 on this device."""
        return cls(0, 1, 1, device)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def device_name(self) -> str:
        """The name of the GPU, or "cpu"."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type


def init_distributed(device: str, timeout_minutes: float = 10.0) -> Ranks:
    """Join the job that torchrun describes in the environment, or return a world of size 1.

    device: auto, cpu, cuda or cuda:N. timeout_minutes: of this and all later collective operations. Raises `HgfastError` if the
    device does not exist, the environment contradicts itself, or other ranks do not join in time.
    """
    rank, world_size, local_rank, local_world_size = rank_variables()
    if world_size > 1 and ":" in device:
        raise HgfastError(
            f"--device {device} is one GPU for {world_size} ranks: use --device cuda, which gives each rank its own"
        )
    selected = select_device(device, local_rank)
    if selected.type == "cuda":
        torch.cuda.set_device(selected)
    if world_size > 1:
        backend = "nccl" if selected.type == "cuda" else "gloo"
        timeout = timedelta(minutes=timeout_minutes)
        if rank != 0:
            _wait_for_main_rank(rank, timeout)
        with report_lost_peers(rank):
            store = _rendezvous_store(world_size == local_world_size, timeout)
            dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    return Ranks(rank, world_size, local_world_size, selected)


def _wait_for_main_rank(rank: int, timeout: timedelta) -> None:
    """Wait until the address of the rendezvous accepts connections: torch's own wait ends with pages of C++ frames.

    Raises `HgfastError` after the timeout.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    end = time.monotonic() + timeout.total_seconds()
    while True:
        try:
            socket.create_connection((address, port), timeout=timeout.total_seconds()).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise HgfastError(
                    f"rank {rank} has not reached rank 0 at {address}:{port} (MASTER_ADDR and MASTER_PORT) within "
                    f"--train.dist-timeout ({one_line(error)}): check that it is running and can be reached"
                ) from error
            time.sleep(0.2)


def _rendezvous_store(single_node: bool, timeout: timedelta) -> Any:
    """Return torchrun's store.

    On one machine the store outlives a restart, and restarted ranks would read the addresses of their predecessors: a prefix
    separates the restarts. Several machines count restarts differently; docs/several-machines.md says what to set there.
    """
    store, _, _ = next(dist.rendezvous("env://", timeout=timeout))  # type: ignore[attr-defined]  # missing in the stubs, as PrefixStore
    if not single_node:
        return store
    return dist.PrefixStore(f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)  # type: ignore[attr-defined]


def wrap_ddp(model: nn.Module, ranks: Ranks) -> DistributedDataParallel:
    """Return the model with gradients that are averaged over all ranks.

    BatchNorm's statistics are not broadcast before every step; the trainer does it before validation and saving.
    """
    parameters = inspect.signature(DistributedDataParallel).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"
    devices = [ranks.device] if ranks.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, **{buffers: False})  # type: ignore[arg-type]


def configure_cudnn(deterministic: bool, device: torch.device) -> None:
    """On a GPU, let cuDNN measure its algorithms and take the fastest for every size, or with `deterministic` let all of torch
    take deterministic algorithms where it has them, and warn where it has not. Applies to the whole process."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = not deterministic
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS is not deterministic
            torch.use_deterministic_algorithms(True, warn_only=True)


def select_device(device: str, local_rank: int = 0) -> torch.device:
    """Return the device; auto is this rank's GPU if any is visible, else the CPU. Raises `HgfastError` if it does not exist."""
    gpus = torch.cuda.device_count()
    try:
        requested = torch.device(("cuda" if gpus else "cpu") if device == "auto" else device)
    except RuntimeError:
        requested = None
    if requested is None or requested.type not in ("cpu", "cuda"):
        raise HgfastError(f"device {device!r} is unknown: use auto, cpu, cuda or cuda:N")
    if requested.type == "cpu":
        return requested
    index = local_rank if requested.index is None else requested.index
    if not 0 <= index < gpus:
        raise HgfastError(
            f"--device {device} on rank {local_rank}: {gpus or 'no'} GPUs are visible; use --device cpu, or fewer ranks"
        )
    return torch.device("cuda", index)


@contextmanager
def report_lost_peers(rank: int) -> Iterator[None]:
    """Raise `HgfastError` when a peer rank died or timed out."""
    try:
        yield
    except RuntimeError as error:
        text = one_line(error, 10_000)
        if not isinstance(error, dist.DistError) and "gloo" not in text:
            raise
        text = re.sub(r"^\[/\S+\] ", "", text).partition("Exception raised from")[0]  # without torch's source lines
        reason = text.partition(". ")[0].strip()
        raise HgfastError(
            f"rank {rank} has lost contact with another rank, which ended or did not answer within "
            f"--train.dist-timeout ({reason[:200]}): see the messages of that rank"
        ) from error


def cleanup() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def broadcast_buffers(module: nn.Module) -> None:
    """Copy the main rank's buffers to all ranks (BatchNorm's running statistics, which differ between ranks)."""
    if dist.is_initialized():
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def all_gather(rows: Tensor) -> Tensor:
    """Concatenate every rank's rows (n_rank, ...) in the order of ranks, on the CPU."""
    rows = rows.cpu()
    if not dist.is_initialized():
        return rows
    parts: list[Tensor | None] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, rows)
    return torch.cat([part for part in parts if part is not None])


def all_reduce_max(values: list[float], device: torch.device) -> list[float]:
    """Return the element-wise maximum over all ranks."""
    if not dist.is_initialized():
        return values
    reduced = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(reduced, dist.ReduceOp.MAX)
    return [float(value) for value in reduced.cpu()]


def all_reduce_sum(value: Tensor) -> float:
    """Return the sum of a scalar over all ranks."""
    value = value.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(value)
    return float(value)
