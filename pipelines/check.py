"""Check every file of a data set before training: report images that cannot be decoded and implausible annotations.

hgfast check --dataset mpii --data DIR

Takes the data flags of train.py. The check lists every unusable image, one per line: missing, empty, truncated, no image, or of
another size than the layout states (FreiHAND: 224 x 224; COCO: width and height of the image's entry). Annotations only cause
warnings: labeled joints outside their image, crop squares that do not touch it, and FreiHAND hands that appear in two splits,
seen by two cameras at the same instant.

The result is stored in DIR/hgfast-check.json (or in FILE, with --checked FILE). Training leaves the bad images out, and the next
check decodes only files that are new or whose size or modification time changed.

Exit code: 0 if every image can be used, 1 if an image cannot be used (missing images count unless --skip-missing is given), a
split is broken, or a joint names a side and has no partner, 2 if nothing could be checked.
"""

from __future__ import annotations

from hgfast.cli import parse
from hgfast.entry_point import run_main
from hgfast.pipelines.checks.result import CheckConfig


def main() -> None:
    config = parse(CheckConfig, description=__doc__ or "")
    import cv2

    from hgfast.pipelines.checks.run import check, exit_code, format_report  # here, so that --help needs no torch

    cv2.utils.logging.setLogLevel(0)  # the check reports bad images itself, once
    findings = check(config)
    print("\n".join(format_report(config, findings)), flush=True)
    raise SystemExit(exit_code(config, findings))


if __name__ == "__main__":
    run_main(main)
