"""Measure the speed and accuracy of hgfast's heatmap decoders, compared with princeton's.

    python bench/decode.py --json decode.json

The inputs are Gaussian heatmaps with a little noise, and ideal logits of the cross-entropy loss. Times are medians of
interleaved rounds. Errors are distances to the true points in heatmap cells, for heatmaps in float32, float16 and bfloat16.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from tabulate import tabulate
from torch import Tensor

from hgfast.bench.harness.interleaved import BatchInfo, BatchIterator, Result, TrialSettings, run_interleaved
from hgfast.bench.harness.noise import relative_noise
from hgfast.bench.harness.record import Row, machine_info, make_record, write_record
from hgfast.bench.princeton.decoder import parse as princeton_parse
from hgfast.cli import parse
from hgfast.errors import HgfastError, run_main
from hgfast.fileio.files import prepare_file
from hgfast.heatmaps import DECODERS, HEATMAP_KINDS, decode, render
from hgfast.system_info import available_cores
from hgfast.training.distributed import select_device

TIMING_NOISE = 0.003  # standard deviation added to Gaussian heatmaps of peak 1 for timing, so that no two cells are equal
PRINCETON = "seed_style"  # the baseline's name in rows
LOGIT_PEAK = 10.0  # largest logit: it affects half precision, not the softmax
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(kw_only=True)
class DecodeConfig:
    """Settings of the decoder benchmark."""

    samples: int = 256
    """batch size"""
    joints: int = 16
    """heatmaps per sample"""
    cells: int = 64
    """side of a heatmap, cells"""
    sigma: float = 1.0
    """standard deviation of the Gaussians, cells"""
    rounds: int = 7
    """timed rounds per row"""
    seed: int = 0
    """random seed of the points"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    quick: bool = False
    """use few heatmaps and rounds, for a smoke test"""
    json: Path | None = None
    """write the record to this file"""

    def __post_init__(self) -> None:
        if self.quick:
            self.samples, self.rounds = 8, 4

    def validate(self) -> None:
        """Raise `HgfastError` for the first value out of range."""
        for name, minimum in (("samples", 1), ("joints", 1), ("cells", 16), ("rounds", 1)):
            if getattr(self, name) < minimum:
                raise HgfastError(f"--{name} is {getattr(self, name)}, must be at least {minimum}")
        if not 0.3 <= self.sigma <= self.cells / 8:
            raise HgfastError(f"--sigma is {self.sigma:g}, must be at least 0.3 and at most an eighth of --cells")
        if self.json is not None:
            prepare_file(self.json, "--json")


def make_heatmaps(config: DecodeConfig, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
    """Return random points (N, K, 2) in heatmap coordinates, and ideal heatmaps (N, K, H, W) by heatmap_kind."""
    generator = torch.Generator().manual_seed(config.seed)
    keypoints = torch.rand(config.samples, config.joints, 2, generator=generator) * config.cells
    centers = torch.arange(config.cells) + 0.5
    squares = (centers - keypoints[..., :1])[..., None, :] ** 2 + (centers - keypoints[..., 1:])[..., :, None] ** 2
    heatmaps = {
        "gaussian": render(keypoints, config.cells, config.cells, config.sigma),
        "logits": LOGIT_PEAK - squares / (2 * config.sigma**2),
    }
    return keypoints, {heatmap_kind: value.to(device) for heatmap_kind, value in heatmaps.items()}


def decode_errors(keypoints: Tensor, heatmaps: dict[str, Tensor]) -> dict[tuple[str, str], Row]:
    """Return, by heatmap_kind and decoder, the mean distance to the points per precision and the largest in float32, in cells."""
    errors: dict[tuple[str, str], Row] = {}
    for heatmap_kind in HEATMAP_KINDS:
        for method in DECODERS:
            row = errors.setdefault((heatmap_kind, method), {})
            for name, dtype in DTYPES.items():
                decoded = decode(heatmaps[heatmap_kind].to(dtype), method, heatmap_kind)[..., :2].cpu()
                distances = (decoded - keypoints).norm(dim=-1)
                row[f"error_{name}"] = round(float(distances.mean()), 6)
                if name == "float32":
                    row["largest_error"] = round(float(distances.max()), 6)
    return errors


@dataclass(frozen=True, eq=False)
class DecodeVariant:
    """A decoder of hgfast or princeton's, for one kind of heatmaps; all variants share a process."""

    heatmap_kind: str
    method: str
    config: DecodeConfig
    device: str

    @property
    def name(self) -> str:
        return f"{self.method} of {self.heatmap_kind}"

    @property
    def process(self) -> str:
        return "decoders"

    def load(self) -> None:
        torch.set_num_threads(available_cores())

    def start(self) -> BatchIterator:
        config, device = self.config, torch.device(self.device)
        generator = torch.Generator().manual_seed(config.seed + 1)
        heatmaps = make_heatmaps(config, device)[1][self.heatmap_kind]
        noisy_heatmaps = heatmaps + TIMING_NOISE * torch.randn(heatmaps.shape, generator=generator).to(device)
        host_heatmaps = noisy_heatmaps.cpu().numpy()
        with torch.inference_mode():
            while True:
                if self.method == PRINCETON:
                    princeton_parse(host_heatmaps)
                else:
                    decode(noisy_heatmaps, self.method, self.heatmap_kind)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                yield BatchInfo(config.samples)


def measure_times(config: DecodeConfig, device: torch.device) -> tuple[list[DecodeVariant], list[Result]]:
    """Time all decoders; princeton's is the first variant."""
    decoders = [("gaussian", PRINCETON), *((heatmap_kind, method) for heatmap_kind in HEATMAP_KINDS for method in DECODERS)]
    variants = [DecodeVariant(heatmap_kind, method, config, str(device)) for heatmap_kind, method in decoders]
    return variants, run_interleaved(
        variants, config.rounds, TrialSettings(0.0, batches=1 if config.quick else 3, warm=1), available_cores(), config.seed
    )


@torch.inference_mode()
def main() -> None:
    config = parse(DecodeConfig, description=__doc__ or "")
    config.validate()
    where, device = machine_info(), select_device(config.device)
    keypoints, heatmaps = make_heatmaps(config, device)
    errors, (variants, results) = decode_errors(keypoints, heatmaps), measure_times(config, device)
    noise_levels = relative_noise([result.round_ms for result in results])
    rows: list[Row] = [
        {
            "decoder": variant.method,
            "kind": variant.heatmap_kind,
            "device": device.type,
            "sets": config.samples,
            "joints": config.joints,
            "cells": config.cells,
            "median_ms": round(median(result.round_ms), 3),
            "noise": noise,
            "speedup": round(
                median(princeton_ms / round_ms for princeton_ms, round_ms in zip(results[0].round_ms, result.round_ms)), 2
            ),
            **errors.get((variant.heatmap_kind, variant.method), {}),
        }
        for variant, result, noise in zip(variants, results, noise_levels)
    ]
    columns = ("decoder", "kind", "median_ms", "speedup", "error_float32", "error_float16", "error_bfloat16", "largest_error")
    print(
        tabulate(
            [{key: row.get(key) for key in columns} for row in rows],
            headers="keys",
            floatfmt=("", "", ".2f", ".1f", *[".4f"] * 4),
        )
    )
    print(
        f"heatmaps of shape {config.samples} x {config.joints} x {config.cells} x {config.cells} on {device.type}, "
        f"{available_cores()} threads; errors in cells, mean and largest",
        flush=True,
    )
    if config.json is not None:
        write_record(make_record(rows, where), config.json)
        print(f"record: {config.json}")


if __name__ == "__main__":
    run_main(main)
