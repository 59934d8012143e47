"""The crop cache: small JPEG files to train on instead of whole images, which take longer to decode.

    hgfast cache --config configs/mpii-hg2.yaml --data DIR --cache CACHE
    hgfast train --config configs/mpii-hg2.yaml --data DIR --cache CACHE

The flags are those of hgfast train. The input size, --augment.rotation, --augment.scale-min, --augment.scale-max and
--augment.shift determine the content of a crop: run this command again after changing one of them or an image. It can be
interrupted at any time; the next run creates the missing crops. Crops of other flags stay until --prune.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from hgfast.cli import parse
from hgfast.config import FLAG_ALIASES, Config
from hgfast.entry_point import run_main
from hgfast.errors import HgfastError, print_warning, printable

MAX_LISTED = 20
"""Number of unreadable images that the command lists."""


@dataclass(kw_only=True)
class CacheConfig(Config):
    """The flags of hgfast train, and --prune."""

    prune: bool = False
    """afterwards, remove crops of other flags, other samples or older versions of the images"""


def main() -> None:
    config = parse(CacheConfig, flag_aliases=FLAG_ALIASES, description=__doc__ or "")
    config.validate()
    if config.cache is None:
        raise HgfastError("--cache DIR is missing: the folder for the crops, which is created if necessary")
    from hgfast.pipelines.crop_cache.builder import build, prune_cache  # here, so that --help needs no torch
    from hgfast.pipelines.datasets import open_samples

    start = time.perf_counter()
    samples, size = open_samples(config, config.train.split), config.model.make_architecture().input_size
    report = build(samples, config.cache, config.augment, size, config.threads)
    for reason in list(report.unreadable.values())[:MAX_LISTED]:
        print_warning(f"{reason}; left out")
    if len(report.unreadable) > MAX_LISTED:
        print_warning(f"{len(report.unreadable) - MAX_LISTED} more images cannot be read; left out")
    print(f"{printable(config.cache)}: {report.summary}, {time.perf_counter() - start:.1f} s", flush=True)
    if config.prune:
        print(f"{prune_cache(samples, config.cache, config.augment, size)} other crops removed", flush=True)
    elif report.stale:
        print(f"{report.stale} crops of other flags or images ({report.stale_bytes / 1e6:.1f} MB); --prune removes them")


if __name__ == "__main__":
    run_main(main)
