"""Print the accuracy to expect from `make demo` on this CPU, or compare a finished run with it.

    python bench/demo_expectation.py
    python bench/demo_expectation.py exp/demo

The demo trains for 7.5 minutes, so its accuracy depends on the number of images that the CPU processes in that time.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

from hgfast.cli import parse
from hgfast.entry_point import run_main
from hgfast.errors import HgfastError
from hgfast.system_info import cpu_features, describe_machine, describe_system

RUNS = ((38_000, 0.775), (58_000, 0.830), (96_000, 0.878), (124_000, 0.889), (193_000, 0.920))
"""Images seen and PCK@0.2 on held-out hands of recorded runs of configs/demo.yaml (table in docs/training.md)."""
WITH_BF16, WITHOUT_BF16 = (96_000, 193_000), (38_000, 58_000)
"""Images that two cores process in 7.5 minutes, if busy and if idle."""
TOLERANCE = 0.03  # difference of PCK@0.2 between runs with equal numbers of images


@dataclass(kw_only=True)
class DemoConfig:
    """Settings of the comparison."""

    folder: list[Path] = field(default_factory=list)
    """folder of a finished run of the demo; none: print what to expect"""


def expected_pck(images: float) -> float:
    """Return the PCK@0.2 after this many images: linear interpolation of `RUNS` over the logarithm of the images."""
    seen, pck = zip(*RUNS)
    return float(np.interp(np.log(images), np.log(seen), pck))


def expectation() -> str:
    """Describe what to expect on this CPU before training."""
    cpu = cpu_features()
    busy, quiet = WITH_BF16 if cpu.bf16 else WITHOUT_BF16
    reason = (
        "computes bf16 in hardware"
        if cpu.bf16
        else "has no bf16 in hardware and trains in fp32, which takes several times as long"
    )
    return (
        f"{describe_machine(describe_system())}: this CPU {reason}. In 7.5 minutes two cores see about {busy:,} (busy) to "
        f"{quiet:,} (quiet) images; expect a PCK@0.2 of {expected_pck(busy):.2f} to {expected_pck(quiet):.2f} on held-out hands"
    )


def comparison(folder: Path) -> str:
    """Compare a finished run with the recorded runs. Raises `HgfastError` if a file of the run is missing or broken."""
    try:
        last = json.loads((folder / "metrics.jsonl").read_text("utf-8").splitlines()[-1])
        batch_size = int(yaml.safe_load((folder / "config.yaml").read_text("utf-8"))["batch_size"])
        row = json.loads((folder / "result.json").read_text("utf-8"))["rows"][0]
        images, reached = int(last["step"]) * batch_size, float(row["pck@0.2"])
    except (OSError, ValueError, KeyError, IndexError, TypeError, yaml.YAMLError) as error:
        raise HgfastError(f"{folder} is not a finished run of the demo ({error!r}): run make demo") from error
    wanted = expected_pck(images)
    verdict = "as expected" if reached >= wanted - TOLERANCE else "LOWER than expected: see docs/troubleshooting.md"
    return (
        f"images seen: {images:,}; PCK@0.2 on held-out hands: {reached:.3f}; recorded runs of as many images: {wanted:.2f}; "
        f"{verdict}\n{expectation()}"
    )


def main() -> None:
    config = parse(DemoConfig, variadic="folder", description=__doc__ or "")
    print(comparison(config.folder[0]) if config.folder else expectation(), flush=True)


if __name__ == "__main__":
    run_main(main)
