"""Retired names and words do not occur in code, documentation or recipes.

Words with a legitimate use (points, kind, maps, shift, seed, drawn lines, kept files) are not listed: check them in reviews.
"""

from __future__ import annotations

import ast
import re
import subprocess

import pytest

from tests.conftest import ROOT

SUFFIXES = (".py", ".md", ".yaml", ".j2", ".cpp", ".hpp", ".h", ".toml", ".sbatch", "Makefile")
EXEMPT = ("CHANGELOG.md", "bench/results/", "tests/data/", "tests/test_names.py")
IDENTIFIERS = (
    *("Wishes", "outlast_torchrun", "finding_room", "in_contact", "_meeting_place", "_saying_how_to_go_on"),
    *("_gradients_stay_here", "_look_around", "_stop_for", "FORETELL", "keypoints_of", "square_matrices", "cut_and_shrink"),
    *("GRAIN", "KEPT", "HEAD_SHARES", "BOX_SHARES", "HARMLESS", "misfit", "is_nameless", "_Lane", "_aside", "Wiring", "Deployed"),
    *("LatencyWay", "LoaderWay", "TrainWay", "EmbeddingWay", "Stall", "compete", "DataChoice", "SeedStyle"),
    *("SeedTrainer", "TorchLoader", "made_up", "many_lives", "odd_pictures", "logbook", "Logbook", "optimisation"),
    *("picture_size", "gpu_memory", "mpii_h5_file", "likeness", "LIKENESSES", "embedding_way", "seed_style_loader"),
)
DEFINITIONS = (
    *("Watch", "Clock", "in_words", "raising", "asked", "remark", "look", "Network", "Found", "seen", "feed", "fold", "move"),
    *("regions", "unweighted", "describe", "restore", "nameless", "sheet", "heard", "listen", "reasons", "_scratch"),
    *("Witness", "ask", "Made", "Way", "Pace", "Lap", "Stable", "Setting", "picture", "pictures", "_move", "_summed", "largest"),
)
"""Functions and classes; as words or locals they are legitimate."""
MODULES = (
    *("hgfast.signals", "hgfast.trouble", "hgfast.costs", "hgfast.kept", "hgfast.looks", "hgfast.foreign", "hgfast.poses"),
    *("hgfast.preprocessing", "hgfast.engine", "hgfast.runtimes", "hgfast.sidecar", "hgfast.machine", "hgfast.precision"),
    *("hgfast.evaluation", "pipelines.gone", "pipelines.plain", "pipelines.plan", "pipelines.drawn", "pipelines.pictures"),
)
FLAGS = (
    *("--shares", "--train.accumulate", "--train.clip", "--train.drop-after", "--train.drop-by", "--train.valid-every"),
    *("--train.wait-minutes", "--loader torch", "--loss.unlabelled", "--loading.wait-minutes", "--normalise"),
)
WORDS = (
    *("foretell", "foretold", "glow", "likeness", "stall", "broken off", "what may enter", "be it", "as wishes"),
    *("colour", "coloured", "labelled", "centre", "centres", "neighbour", "optimiser", "recognised", "learnt"),
)
ALLOWED = {
    "tests/hgfast/test_old_files.py": {"--normalise", "--shares", "--loader torch"},  # an old record's command
    "tests/hgfast/test_cli.py": set(FLAGS),  # refused with the new name
    "tests/hgfast/test_train.py": set(FLAGS),
    "tests/compare_revisions.py": set(FLAGS),  # runs older revisions too
    "docs/benchmarks.md": {"--normalise", "--loader torch"},  # generated from records of earlier revisions
}


def texts() -> dict[str, str]:
    """Return the contents of tracked text files by path."""
    command = ["git", "ls-files", "--cached"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return {
        name: (ROOT / name).read_text()
        for name in names
        if name.endswith(SUFFIXES) and not name.startswith(EXEMPT) and (ROOT / name).is_file()
    }


TEXTS = texts()


def find(pattern: str, retired: str) -> list[str]:
    """Return the places where a pattern occurs, except in files that may contain it."""
    return [
        f"{name}:{text.count(chr(10), 0, found.start()) + 1}"
        for name, text in TEXTS.items()
        if retired not in ALLOWED.get(name, ())
        for found in re.finditer(pattern, text, re.IGNORECASE if retired in WORDS else 0)
    ]


def test_existing_names_are_found() -> None:
    assert len(TEXTS) > 250 and find(r"\bGracefulShutdown\b", "GracefulShutdown")


@pytest.mark.parametrize("name", [*IDENTIFIERS, *MODULES])
def test_identifiers(name: str) -> None:
    assert not find(rf"(?<![\w.]){re.escape(name)}\b", name)


def test_definitions() -> None:
    for name, text in TEXTS.items():
        if name.endswith(".py"):
            tree = ast.parse(text)
            defined = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
            assert not defined & set(DEFINITIONS), name


@pytest.mark.parametrize("flag", FLAGS)
def test_flags(flag: str) -> None:
    assert not find(rf"{re.escape(flag)}\b(?!-)", flag)


@pytest.mark.parametrize("word", WORDS)
def test_words(word: str) -> None:
    assert not find(rf"(?<!['\"\w]){re.escape(word)}\b(?!['\"])", word)
