"""Measure the overhead of `hgfast.runtime.Session` over the network alone: time, threads, memory.

    python bench/session_overhead.py
    python bench/session_overhead.py --checkpoint exp/mpii/best.pt --cli build/hgfast_cli --json embedding.json

The network alone (normalized float input, heatmaps as output, batch 1) is compared with a complete session call on a photograph
in memory: crop, copy, network, decoding, keypoints in pixels of the photograph. Four threads that share one session are measured
in the same rounds. Then a tiny network runs many times in its own process, whose memory and open files are measured before and
after; --cli does the same with the program of export/cpp. Without --checkpoint the network is an untrained hg1.
"""

from __future__ import annotations

from hgfast.bench.harness.config import SessionOverheadConfig
from hgfast.cli import parse
from hgfast.entry_point import run_main


def main() -> None:
    config = parse(SessionOverheadConfig, description=__doc__ or "")
    config.validate()
    from hgfast.bench.measurements.session_overhead import run  # imports torch

    run(config)


if __name__ == "__main__":
    run_main(main)
