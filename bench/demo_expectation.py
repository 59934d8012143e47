"""Say what `make demo` should reach on this CPU, or compare what it reached with that.

    python bench/demo_expectation.py
    python bench/demo_expectation.py exp/demo

The demo trains for 7.5 minutes, so that its accuracy depends on how many images the CPU gets through in that time.
What may enter: the figures of recorded runs of the demo, and what is said about them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

from hgfast.cli import parse
from hgfast.errors import HgfastError, run
from hgfast.machine import about, cpu_features, describe_machine

RUNS = ((38_000, 0.775), (58_000, 0.830), (96_000, 0.878), (124_000, 0.889), (193_000, 0.920))
"""Images seen and PCK@0.2 on held-out hands of recorded runs of configs/demo.yaml; docs/training.md, "What was trained"."""
WITH_BF16, WITHOUT_BF16 = (96_000, 193_000), (38_000, 58_000)
"""Images that two cores see in 7.5 minutes: busy, and quiet."""
TOLERANCE = 0.03  # of PCK@0.2, within which runs of as many images differ


@dataclass(kw_only=True)
class DemoConfig:
    """What is compared."""

    folder: list[Path] = field(default_factory=list)
    """folder of a finished run of the demo; none: say what to expect"""


def expected_pck(images: float) -> float:
    """Return the PCK@0.2 that a run reaches after so many images, from `RUNS`, linear in the logarithm of the images."""
    seen, pck = zip(*RUNS)
    return float(np.interp(np.log(images), np.log(seen), pck))


def expectation() -> str:
    """Say what to expect on this CPU before training."""
    cpu = cpu_features()
    busy, quiet = WITH_BF16 if cpu.bf16 else WITHOUT_BF16
    reason = (
        "computes bf16 in hardware"
        if cpu.bf16
        else "has no bf16 in hardware and trains in fp32, which takes several times as long"
    )
    return (
        f"{describe_machine(about())}: this CPU {reason}. In 7.5 minutes two cores see about {busy:,} (busy) to {quiet:,} "
        f"(quiet) images; expect a PCK@0.2 of {expected_pck(busy):.2f} to {expected_pck(quiet):.2f} on held-out hands"
    )


def comparison(folder: Path) -> str:
    """Compare a finished run with the recorded ones. Raises `HgfastError` if a file of the run is missing or broken."""
    try:
        last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
        batch_size = int(yaml.safe_load((folder / "config.yaml").read_text())["batch_size"])
        row = json.loads((folder / "result.json").read_text())["rows"][0]
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
    config = parse(DemoConfig, rest="folder", description=__doc__ or "")
    print(comparison(config.folder[0]) if config.folder else expectation(), flush=True)


if __name__ == "__main__":
    run(main)
