"""Train a stacked hourglass.

    python hgfast/train.py --dataset freihand --data DIR
    torchrun --nproc-per-node 2 hgfast/train.py --dataset freihand --data DIR --exp hands
    python hgfast/train.py --dataset mpii --data DIR
    python hgfast/train.py -c hands

A run writes to exp/NAME: checkpoint.pt (and checkpoint-STEP.pt with --train.keep-checkpoints), best.pt, config.yaml,
metrics.jsonl and events/ for TensorBoard.
"""

from __future__ import annotations

import sys

from hgfast.cli import parse
from hgfast.config import CONFIG_FILE, FLAG_ALIASES, Config
from hgfast.entry_point import run_main
from hgfast.errors import HgfastError


def parse_config(argv: list[str]) -> Config:
    """Parse the configuration; with `--resume NAME` the flags override the stored configuration of that experiment."""
    config = parse(Config, argv, flag_aliases=FLAG_ALIASES, description=__doc__ or "")
    if config.resume is not None:
        stored_yaml = config.out / config.resume / CONFIG_FILE
        if not stored_yaml.is_file():
            raise HgfastError(f"there is no experiment {config.resume!r} to continue: {stored_yaml} is missing")
        exp_flags = {word.partition("=")[0] for word in argv} & {"-e", "--exp"}
        if exp_flags and config.exp != config.resume:
            raise HgfastError(f"-c {config.resume} continues an experiment under its own name: leave out --exp {config.exp}")
        name, stored = config.resume, parse(Config, ["--config", str(stored_yaml)], flag_aliases=FLAG_ALIASES)
        config = parse(Config, ["--config", str(stored_yaml), *argv], flag_aliases=FLAG_ALIASES)
        config.exp = name
        if config.seed != stored.seed:
            raise HgfastError(f"{name} has the seed {stored.seed}, which decides the order of its samples: leave out --seed")
    config.validate()
    return config


def main() -> None:
    config = parse_config(sys.argv[1:])
    from hgfast.training.run import run  # imports torch

    run(config)


if __name__ == "__main__":
    run_main(main)
