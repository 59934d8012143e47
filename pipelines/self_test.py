"""Test whether DALI decodes and crops JPEGs of all kinds on this machine as OpenCV does.

hgfast self-test

A child process decodes and crops 64 JPEGs several times, while the device is busy, and compares the crops with OpenCV's. Training
and evaluation with --loader dali do the same before the first use of a GPU; a pass is remembered in $XDG_CACHE_HOME/hgfast (by
default ~/.cache/hgfast) until the GPU, its driver, DALI, nvImageCodec, nvJPEG, hgfast or the decoder's load change.

Exit code: 0 if the crops agree, 2 if they do not, or the child process crashed or did not end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from hgfast.cli import parse
from hgfast.config import LoadingConfig
from hgfast.entry_point import run_main
from hgfast.validation import Range


@dataclass(kw_only=True)
class SelfTestConfig:
    """Settings of the self-test."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    hw_decoder_load: Annotated[float | None, Range(ge=0, le=1)] = None
    """GPU only: --loading.hw-decoder-load of the training; none: its default"""


def main() -> None:
    config = parse(SelfTestConfig, description=__doc__ or "")
    from hgfast.pipelines.loaders.self_test import NUM_IMAGES, device_name, ensure_tested, run_self_test
    from hgfast.training.distributed import select_device  # here, so that --help needs no torch

    device, loading = select_device(config.device), LoadingConfig(hw_decoder_load=config.hw_decoder_load)
    if device.type == "cuda":
        ensure_tested(device, loading, again=True)
    else:
        run_self_test(device, loading)
    print(f"DALI on {device_name(device)}: the crops of {NUM_IMAGES} JPEGs of all kinds agree with OpenCV's", flush=True)


if __name__ == "__main__":
    run_main(main)
