"""How fast heatmaps become keypoints, and how exactly: hgfast's decoders beside one in the manner of the seed.

    python bench/decode.py --json decode.json

Gaussian maps are decoded with a little noise, logits as the cross-entropy loss would have them. Times are medians of
interleaved rounds; errors are distances to the true points in cells, on maps of float32 and of the two half precisions.
What may enter: the flags, the maps, the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from contest import Batches, Made, Pace, Result, compete
from noise import shares
from record import Row, machine, make_record, write_record
from seed_decoder import parse as seed_parse
from tabulate import tabulate
from torch import Tensor

from hgfast.cli import parse
from hgfast.distributed import pick_device
from hgfast.errors import HgfastError, run
from hgfast.files import prepare_file
from hgfast.heatmaps import KINDS, METHODS, decode, render
from hgfast.machine import cores

NOISE = 0.003  # standard deviation on Gaussian maps of peak 1 while timing, so that no two cells are equal
SEED = "seed_style"
PEAK = 10.0  # of logits: the softmax does not care, half precision does
PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(kw_only=True)
class DecodeConfig:
    """One comparison of decoders."""

    samples: int = 256
    """sets of maps at once"""
    joints: int = 16
    """maps a set"""
    cells: int = 64
    """side of a map"""
    sigma: float = 1.0
    """of the Gaussians, cells"""
    rounds: int = 7
    """timed rounds of every row"""
    seed: int = 0
    """fixes the points"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    quick: bool = False
    """few maps and rounds, to see that it works"""
    json: Path | None = None
    """write the record here"""

    def __post_init__(self) -> None:
        if self.quick:
            self.samples, self.rounds = 8, 4

    def validate(self) -> None:
        """Raise `HgfastError` for the first value out of its range."""
        for name, least in (("samples", 1), ("joints", 1), ("cells", 16), ("rounds", 1)):
            if getattr(self, name) < least:
                raise HgfastError(f"--{name} is {getattr(self, name)}, must be at least {least}")
        if not 0.3 <= self.sigma <= self.cells / 8:
            raise HgfastError(f"--sigma is {self.sigma:g}, must be at least 0.3 and at most an eighth of --cells")
        if self.json is not None:
            prepare_file(self.json, "--json")


def draw_maps(config: DecodeConfig, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
    """Random points (N, K, 2) anywhere on the map, and the ideal maps (N, K, H, W) of both kinds."""
    generator = torch.Generator().manual_seed(config.seed)
    points = torch.rand(config.samples, config.joints, 2, generator=generator) * config.cells
    centres = torch.arange(config.cells) + 0.5
    squares = (centres - points[..., :1])[..., None, :] ** 2 + (centres - points[..., 1:])[..., :, None] ** 2
    maps = {
        "gaussian": render(points, config.cells, config.cells, config.sigma),
        "logits": PEAK - squares / (2 * config.sigma**2),
    }
    return points, {kind: value.to(device) for kind, value in maps.items()}


def errors(points: Tensor, maps: dict[str, Tensor]) -> dict[tuple[str, str], Row]:
    """By kind and method: the mean distance to the true points at every precision, and the largest in float32; cells."""
    found: dict[tuple[str, str], Row] = {}
    for kind in KINDS:
        for method in METHODS:
            row = found.setdefault((kind, method), {})
            for name, dtype in PRECISIONS.items():
                decoded = decode(maps[kind].to(dtype), method, kind)[..., :2].cpu()
                off = (decoded - points).norm(dim=-1)
                row[f"error_{name}"] = round(float(off.mean()), 6)
                if name == "float32":
                    row["largest_error"] = round(float(off.max()), 6)
    return found


@dataclass(frozen=True, eq=False)
class DecodeWay:
    """A decoder of a kind of map, or the seed's; all share a process."""

    kind: str
    method: str
    config: DecodeConfig
    device: str

    @property
    def name(self) -> str:
        return f"{self.method} of {self.kind}"

    @property
    def process(self) -> str:
        return "decoders"

    def load(self) -> None:
        torch.set_num_threads(cores())

    def start(self) -> Batches:
        config, device = self.config, torch.device(self.device)
        generator = torch.Generator().manual_seed(config.seed + 1)
        maps = draw_maps(config, device)[1][self.kind]
        noisy = maps + NOISE * torch.randn(maps.shape, generator=generator).to(device)
        host = noisy.cpu().numpy()
        with torch.inference_mode():
            while True:
                _ = seed_parse(host) if self.method == SEED else decode(noisy, self.method, self.kind)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                yield Made(config.samples)


def race(config: DecodeConfig, device: torch.device) -> tuple[list[DecodeWay], list[Result]]:
    """All decoders, the seed's first."""
    kinds = [("gaussian", SEED), *((kind, method) for kind in KINDS for method in METHODS)]
    ways = [DecodeWay(kind, method, config, str(device)) for kind, method in kinds]
    return ways, compete(ways, config.rounds, Pace(0.0, batches=1 if config.quick else 3, warm=1), cores(), config.seed)


@torch.inference_mode()
def main() -> None:
    config = parse(DecodeConfig, description=__doc__ or "")
    config.validate()
    where, device = machine(), pick_device(config.device)
    points, maps = draw_maps(config, device)
    exact, (ways, results) = errors(points, maps), race(config, device)
    spreads = shares([result.rounds for result in results])
    rows: list[Row] = [
        {
            "decoder": way.method,
            "kind": way.kind,
            "device": device.type,
            "sets": config.samples,
            "joints": config.joints,
            "cells": config.cells,
            "median_ms": round(median(result.rounds), 3),
            "noise": share,
            "speedup": round(median(seed / own for seed, own in zip(results[0].rounds, result.rounds)), 2),
            **exact.get((way.kind, way.method), {}),
        }
        for way, result, share in zip(ways, results, spreads)
    ]
    shown = ("decoder", "kind", "median_ms", "speedup", "error_float32", "error_float16", "error_bfloat16", "largest_error")
    print(
        tabulate(
            [{key: row.get(key) for key in shown} for row in rows], headers="keys", floatfmt=("", "", ".2f", ".1f", *[".4f"] * 4)
        )
    )
    print(
        f"{config.samples} sets of {config.joints} x {config.cells} x {config.cells} on {device.type}, "
        f"{cores()} threads; errors in cells, mean and largest",
        flush=True,
    )
    if config.json is not None:
        write_record(make_record(rows, where), config.json)
        print(f"record: {config.json}")


if __name__ == "__main__":
    run(main)
