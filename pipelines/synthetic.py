"""Write synthetic data sets in the layouts of real ones.

python pipelines/synthetic.py freihand|mpii|coco --out DIR --count N
"""

from __future__ import annotations

import time
from collections.abc import Callable

from hgfast.cli import dispatch
from hgfast.entry_point import run_main
from hgfast.errors import printable
from hgfast.pipelines.synthetic_data.hand.freihand_layout import generate_freihand
from hgfast.pipelines.synthetic_data.people.coco_layout import generate_coco
from hgfast.pipelines.synthetic_data.people.mpii_layout import generate_mpii

COMMANDS: dict[str, Callable[..., str]] = {"freihand": generate_freihand, "mpii": generate_mpii, "coco": generate_coco}
"""Each returns the numbers of images and people in words."""


def main() -> None:
    start = time.perf_counter()
    summary = dispatch(COMMANDS, description="Synthetic data sets in the layouts of the real ones.")
    print(f"{printable(summary)}, {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    run_main(main)
