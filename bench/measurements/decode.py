"""Measure the variants of `decode.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import truediv
from statistics import median

import torch
from torch import Tensor

from hgfast.bench.harness.config import DecodeConfig
from hgfast.bench.harness.interleaved import (
    ROUNDS_MISSING,
    BatchInfo,
    BatchIterator,
    Result,
    TrialSettings,
    raise_failures,
    run_interleaved,
)
from hgfast.bench.harness.noise import relative_noise
from hgfast.bench.harness.record import Row, machine_info, make_record, save_record, write_record
from hgfast.bench.princeton.decoder import parse as princeton_parse
from hgfast.bench.tables.columns import print_rows
from hgfast.heatmaps import DECODERS, HEATMAP_KINDS, decode, render
from hgfast.system_info import available_cores
from hgfast.training.distributed import select_device

TIMING_NOISE = 0.003  # standard deviation added to Gaussian heatmaps of peak 1 for timing, so that no two cells are equal
PRINCETON = "seed_style"  # the baseline's name in rows
LOGIT_PEAK = 10.0  # largest logit: it affects half precision, not the softmax
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@torch.inference_mode()
def run(config: DecodeConfig) -> None:
    """Measure, print the table, and write the record."""
    machine, device, threads = machine_info(), select_device(config.device), available_cores()
    errors = decode_errors(*make_heatmaps(config, device))
    decoders = [("gaussian", PRINCETON), *((heatmap_kind, method) for heatmap_kind in HEATMAP_KINDS for method in DECODERS)]
    variants = [DecodeVariant(heatmap_kind, method, config, str(device)) for heatmap_kind, method in decoders]
    trial = TrialSettings(0.0, batches=1 if config.quick else 3, warm=1, quick=config.quick)

    def save(results: list[Result]) -> None:
        save_record(make_record(make_rows(variants, results, errors), machine, incomplete=ROUNDS_MISSING), config.json)

    results = run_interleaved(variants, config.rounds, trial, threads, config.seed, save)
    rows = make_rows(variants, results, errors)
    print_rows(rows, "decode")
    shape = f"{config.samples} x {config.joints} x {config.cells} x {config.cells}"
    print(f"heatmaps of shape {shape} on {device.type}, {threads} threads; errors in cells, mean and largest", flush=True)
    write_record(make_record(rows, machine), config.json)
    raise_failures(results)


def make_rows(variants: Sequence[DecodeVariant], results: Sequence[Result], errors: dict[tuple[str, str], Row]) -> list[Row]:
    """Return the rows of the variants; those that failed have no metrics."""
    noise_levels = relative_noise([result.round_ms for result in results])
    princeton_ms, config = results[0].round_ms, variants[0].config
    return [
        {
            "decoder": variant.method,
            "kind": variant.heatmap_kind,
            "device": torch.device(variant.device).type,
            "sets": config.samples,
            "joints": config.joints,
            "cells": config.cells,
            "median_ms": None if result.error else round(median(result.round_ms), 3),
            "noise": noise,
            "speedup": round(median(ratios), 2) if (ratios := list(map(truediv, princeton_ms, result.round_ms))) else None,
            **errors.get((variant.heatmap_kind, variant.method), {}),
            **({"note": result.error} if result.error else {}),
        }
        for variant, result, noise in zip(variants, results, noise_levels)
    ]


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
