"""Compare two revisions of this repository to the bit: losses, weights, figures, exported networks, keypoints, synthetic data.

    python -m tests.compare_revisions OLD NEW [--quick]

Both revisions are checked out into temporary worktrees and run by this interpreter, at the same time and on the CPU, with one
thread per process and the caller's ATEN_CPU_CAPABILITY (avx2 by default). Both read the data sets and checkpoints that OLD made.
Prints one line per comparison and exits with 1 if anything differs or fails. Takes a few minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

GIT = [shutil.which("git") or "git", "-C", str(Path(__file__).resolve().parent.parent)]
STEPS, COUNT = 40, 30  # optimizer steps of a run; hands or images of a data set

FLAGS = {
    "--train.valid-every": "--train.val-interval",
    "--train.clip": "--train.grad-clip",
    "--train.accumulate": "--train.grad-accum",
    "--train.drop-after": "--train.lr-milestones",
    "--train.drop-by": "--train.lr-gamma",
    "--loss.unlabelled": "--loss.unlabeled",
    "--loader=torch": "--loader=opencv",
}
"""Older flags and their later names. Each revision gets the one that its --help lists."""
NAMES = {"torch": "opencv", "normalise": "normalize"}
"""Keys and values in JSON that were renamed, which are not differences. The joints and fingers of hands follow."""
for _old, _new in {"forefinger": "index", "middle_finger": "middle", "ring_finger": "ring", "pinky_finger": "pinky"}.items():
    NAMES |= {_old: _new, **{f"{_old}{i}": f"{_new}_{part}" for i, part in enumerate(("mcp", "pip", "dip", "tip"), 1)}}
NAMES |= {f"thumb{i}": f"thumb_{part}" for i, part in enumerate(("cmc", "mcp", "ip", "tip"), 1)}
COORDINATES = "pixels of the upright {}, x right, y down, (0, 0) at the outer corner of the first pixel"
NAMES[COORDINATES.format("picture")] = COORDINATES.format("image")  # a description in keypoints.json
IGNORED = {"images_per_s", "network_images_per_s", "data_wait", "tflops", "memory_gb"}
"""Keys of metrics.jsonl that measure speed and memory."""

TRAIN = "--model.preset=tiny --train.amp=off --device=cpu --threads=1 --batch-size=8 --seed=7"
LAYOUTS = {
    "freihand": "--loss.name=cross_entropy --train.optimizer=adamw --train.valid-every=2",
    "mpii": "--loss.name=mse --loss.unlabelled=zero --train.optimizer=rmsprop --train.schedule=steps --train.drop-after=[0.02] "
    "--train.drop-by=0.5 --train.accumulate=2 --train.clip=1 --train.valid-every=3",
}
"""Flags of the training runs by their older names. The two layouts exercise different parts of the trainer."""


class CommandError(Exception):
    """A command of a revision failed, or did not do what is to be compared."""


@dataclass(frozen=True)
class Revision:
    """A revision's worktree, the folder for the files that it writes, and a child process that reads them."""

    name: str
    tree: Path
    work: Path
    child: ProcessPoolExecutor
    helps: dict[str, str] = field(default_factory=dict)

    def python(self, *words: str) -> str:
        """Run the interpreter on the worktree; returns stdout. Raises `CommandError` with the end of stderr."""
        command, environment = [sys.executable, *words], os.environ | {"PYTHONPATH": str(self.tree)}
        done = subprocess.run(command, cwd=self.work, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CommandError(f"{self.name} failed: {' '.join(words)}: {' '.join(done.stderr.split())[-600:]}")
        return done.stdout

    def script(self, name: str, *words: str, ranks: int = 1) -> None:
        """Run a script of the worktree, on several ranks by torch.distributed.run; flags may have their older names."""
        path = str(self.tree / name)
        if name not in self.helps:
            self.helps[name] = self.python(path, "--help")
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
        for old, new in FLAGS.items():
            listed = re.search(new.replace("=", r" \{[^}]*") + r"(?![\w-])", self.helps[name])
            words = tuple(new + word[len(old) :] if listed and word.startswith(old) else word for word in words)
        self.python(*launcher, path, *words)


def compare(name: str, action: Callable[[Revision], dict[str, Any]], revisions: Iterable[Revision]) -> int:
    """Run an action on both revisions and print a line for each part of its result; returns how many parts differ."""
    differences: dict[str, str | None]
    try:
        with ThreadPoolExecutor(2) as pool:
            old, new = pool.map(action, revisions)
        differences = {f"{name}: {part}": first_difference(canonical(old[part]), canonical(new[part])) for part in old}
    except CommandError as error:
        differences = {name: str(error)}
    for line, difference in differences.items():
        print(f"{line:<40} {'equal' if difference is None else f'DIFFERS: {difference}'}", flush=True)
    return sum(difference is not None for difference in differences.values())


def canonical(value: Any) -> Any:
    """Parsed JSON with the later names for what was renamed, without speeds."""
    if isinstance(value, dict):
        return {NAMES.get(key, key): canonical(item) for key, item in value.items() if key not in IGNORED}
    if isinstance(value, list):
        return [canonical(item) for item in value]
    return NAMES.get(value, value) if isinstance(value, str) else value


def first_difference(old: Any, new: Any, place: str = "") -> str | None:
    """The first place where two JSON values differ, with both values, or None. Numbers are compared to the last bit."""
    keys: Iterable[Any] = ()
    if isinstance(old, dict) and isinstance(new, dict):
        if missing := sorted(old.keys() ^ new.keys()):
            return f"{place}.{missing[0]} is only in {'OLD' if missing[0] in old else 'NEW'}"
        keys = old
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        keys = range(len(old))
    elif json.dumps(old) != json.dumps(new):  # tells 0.0 from -0.0, and 1 from 1.0
        return f"{place}: {json.dumps(old)[:200]} != {json.dumps(new)[:200]}"
    return next((found for key in keys if (found := first_difference(old[key], new[key], f"{place}.{key}"))), None)


def digest(array: Any) -> str:
    """Type, shape, sum and hash of a numpy array."""
    return f"{array.dtype} {list(array.shape)} sum {array.sum(dtype=float)!r} {hashlib.sha256(array.tobytes()).hexdigest()}"


def checkpoint_digests(path: Path) -> dict[str, Any]:
    """Weights and training state of a checkpoint, with digests in the place of tensors. For a child process: imports torch."""
    import torch

    def plain(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return digest(value.contiguous().numpy())
        if isinstance(value, dict):
            return {str(key): plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    content = torch.load(path, map_location="cpu", weights_only=True)
    return {"weights": plain([content["weights"], content["ema"]]), "training state": plain(content["training"])}


def onnx_digests(path: Path) -> dict[str, str]:
    """Digests of the outputs for fixed random images, by name. For a child process: imports onnxruntime."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (port,) = session.get_inputs()
    images = np.random.default_rng(7).integers(0, 256, (3, *port.shape[1:]), np.uint8)
    return {out.name: digest(found) for out, found in zip(session.get_outputs(), session.run(None, {port.name: images}))}


def synthesize(kind: str, revision: Revision) -> dict[str, Any]:
    """Hashes of the files of a small synthetic data set."""
    out = revision.work / "data" / kind
    revision.script("pipelines/synthetic.py", kind, f"--out={out}", f"--count={COUNT}", "--seed=7", "--workers=1")
    files = [path for path in sorted(out.rglob("*.*")) if path.suffix != ".txt"]
    hashes = {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    images = {name: value for name, value in hashes.items() if name.endswith(".jpg")}
    if not COUNT < len(images) < len(hashes):
        raise CommandError(f"{revision.name}: {len(images)} images among the {len(hashes)} files of {kind}")
    return {"images": images, "annotations": {name: hashes[name] for name in hashes.keys() - images.keys()}}


def train(layout: str, loader: str, ranks: int, data: Path, revision: Revision) -> dict[str, Any]:
    """Lines of metrics.jsonl, weights and training state after `STEPS` steps."""
    out = revision.work / f"{layout}-{loader}-{ranks}"
    words = [*TRAIN.split(), *LAYOUTS[layout].split(), f"--train.max-iters={STEPS / 1000}", f"--loader={loader}"]
    files = [f"--dataset={layout}", f"--data={data}", f"--out={out.parent}", f"--exp={out.name}"]
    revision.script("hgfast/train.py", *words, *files, ranks=ranks)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    if len(lines) < 3 or lines[-1]["step"] != STEPS:
        raise CommandError(f"{revision.name}: metrics.jsonl has {len(lines)} lines, the last at step {lines[-1]['step']}")
    return {"losses": lines, **revision.child.submit(checkpoint_digests, out / "checkpoint.pt").result()}


def evaluate(checkpoint: Path, layout: str, loader: str, data: Path, revision: Revision) -> dict[str, Any]:
    """Figures and predictions for the held-out split."""
    parts = {part: revision.work / f"{layout}-{loader}-{part}.json" for part in ("json", "predictions")}
    words = [f"--dataset={layout}", f"--data={data}", f"--loader={loader}", "--threads=1", "--device=cpu"]
    revision.script("hgfast/evaluate.py", str(checkpoint), *words, *(f"--{part}={path}" for part, path in parts.items()))
    return {part: json.loads(path.read_text()) for part, path in parts.items()}


def export(checkpoint: Path, layout: str, revision: Revision) -> dict[str, Any]:
    """Outputs of the exported network for fixed images."""
    out = revision.work / f"{layout}.onnx"
    revision.script("export/to_onnx.py", str(checkpoint), f"--out={out}", "--no-verify=true", "--outputs=keypoints,heatmaps")
    return {"outputs": revision.child.submit(onnx_digests, out).result()}


def predict(checkpoint: Path, layout: str, images: list[Path], revision: Revision) -> dict[str, Any]:
    """The content of keypoints.json."""
    out = revision.work / f"{layout}-keypoints"
    revision.script("hgfast/predict.py", str(checkpoint), *map(str, images), f"--out={out}", "--draw=false", "--device=cpu")
    return {"keypoints": json.loads((out / "keypoints.json").read_text())}


def actions(old: Path, quick: bool) -> Iterator[tuple[str, Callable[[Revision], dict[str, Any]]]]:
    """Names of the comparisons and what to run for each, in order. `old`: the folder with the files of OLD."""
    for kind in ("freihand", "mpii", "coco"):
        yield f"synthetic {kind}", partial(synthesize, kind)
    runs = [(layout, loader, ranks) for layout in LAYOUTS for loader in ("dali", "torch") for ranks in (1, 2)]
    for layout, loader, ranks in [("freihand", "dali", 1), ("mpii", "torch", 2)] if quick else runs:
        data, checkpoint = old / "data" / layout, old / f"{layout}-{loader}-{ranks}" / "checkpoint.pt"
        yield f"train {layout} {loader} x{ranks}", partial(train, layout, loader, ranks, data)
        if ranks == 1 or quick:
            yield f"evaluate {layout} {loader}", partial(evaluate, checkpoint, layout, loader, data)
        if quick or (loader, ranks) == ("dali", 1):
            yield f"export {layout}", partial(export, checkpoint, layout)
            yield f"predict {layout}", partial(predict, checkpoint, layout, sorted(data.rglob("*.jpg"))[:4])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", help="revision to compare with; its data sets and checkpoints are used for both")
    parser.add_argument("new", help="revision that should do the same")
    parser.add_argument("--quick", action="store_true", help="one training run per layout instead of four")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # removes the worktrees
    start, revisions = time.perf_counter(), list[Revision]()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="compare-revisions-")))
        for name in ("old", "new"):
            work, tree, commit = folder / name, folder / f"{name}-tree", getattr(arguments, name)
            work.mkdir()
            if subprocess.run([*GIT, "worktree", "add", "--quiet", "--detach", str(tree), commit], check=False).returncode:
                parser.error(f"cannot check out {commit}")
            stack.callback(subprocess.run, [*GIT, "worktree", "remove", "--force", str(tree)], check=False)
            child = stack.enter_context(ProcessPoolExecutor(1, multiprocessing.get_context("spawn")))
            revisions.append(Revision(name.upper(), tree, work, child))
            imported = revisions[-1].python("-c", "import hgfast; print(hgfast.__file__)").strip()
            if not Path(imported).is_relative_to(tree):
                parser.error(f"{commit} imports {imported} instead of its worktree")
        num_different = sum(compare(name, action, revisions) for name, action in actions(revisions[0].work, arguments.quick))
    print(f"{num_different or 'none'} differ, {time.perf_counter() - start:.0f} s")
    return min(num_different, 1)


if __name__ == "__main__":
    sys.exit(main())
