"""What `gpu_check.py` runs, in order: the words of every command, what it needs, what it leaves.

What may enter: steps. How they are run and what is said about them is in `gpu_check`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

NO_BACKEND = (
    r"nothing here builds TensorRT engines|(TensorRT|TensorRT-RTX|Torch-TensorRT) cannot be imported|"
    r"Torch-TensorRT gets fp32 and fp16"
)
"""In the last words of export/trt.py, which ends with 2, where no library builds that: the step is not possible, not failed."""
ROOMY = 40.0  # gigabytes on a GPU, from which on the training-step bench takes batches of 32


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command.

    words: what it shows. command: what Python gets. result: the file it leaves in --out.
    needs: files without which it is not possible. makes: a file it leaves in --work; `artefact`: that is an exported
    network, with a sidecar. if_there: words to be added where they are files. impossible: why it cannot be run here.
    missing: what its last words hold where, with exit code 2, what it needs is not installed.
    """

    name: str
    words: str
    command: tuple[str, ...]
    result: Path | None = None
    needs: tuple[Path, ...] = ()
    makes: Path | None = None
    artefact: bool = False
    if_there: tuple[Path, ...] = ()
    impossible: str = ""
    missing: str = ""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where and on what it is run. slug: the GPU's name as part of a file's. gpus: how many. memory_gb: of the first."""

    slug: str
    gpus: int
    memory_gb: float
    threads: int
    out: Path
    work: Path
    quick: bool
    minutes: float

    def result(self, bench: str) -> Path:
        return self.out / f"{bench}-{self.slug}.json"

    @property
    def quickly(self) -> tuple[str, ...]:
        """For the scripts that have such a flag."""
        return ("--quick",) if self.quick else ()

    @property
    def hands(self) -> Path:
        return self.work / "hands"

    @property
    def data(self) -> tuple[str, ...]:
        return ("--dataset", "freihand", "--data", str(self.hands))

    @property
    def drawn(self) -> Path:
        """What a data set that is complete has."""
        return self.hands / "training_K.json"

    @property
    def checkpoint(self) -> Path:
        return self.work / "hg2" / "best.pt"


def all_steps(at: Setting) -> list[Step]:
    """All of them."""
    exports = [*onnx_and_torchscript(at), *engines(at)]
    artefacts = tuple(step.makes for step in exports if step.makes is not None)
    checkpoint = str(at.checkpoint)
    network = (at.drawn, at.checkpoint)
    threads = ("--threads", str(at.threads))
    gpus = max(at.gpus, 2)  # below that it is only listed
    batch = "32" if at.memory_gb >= ROOMY else "8"
    return [
        Step(name="tests", words="the tests that need a GPU", command=("-m", "pytest", "-m", "gpu", "-rs")),
        Step(
            name="loader",
            words="DALI on the GPU beside DALI on the CPU and other loaders",
            command=("bench/loader.py", *threads, *at.quickly, "--json", str(at.result("loader"))),
            result=at.result("loader"),
        ),
        Step(
            name="data",
            words="hands are drawn",
            command=(
                *("pipelines/synthetic.py", "freihand", "--out", str(at.hands)),
                *("--count", "200" if at.quick else "4000", "--seed", "0", "--overwrite"),
            ),
            makes=at.drawn,
        ),
        Step(
            name="training",
            words="hg2 is trained on them",
            command=train(at, "hg2", 32, at.minutes, 2 if at.quick else 30),
            needs=(at.drawn,),
            makes=at.checkpoint,
        ),
        Step(
            name="train-step",
            words="a training step beside the seed's, torch.compile, CUDA graphs and DDP",
            command=(
                *("bench/train_step.py", "--device", "cuda", "--presets", "[hg1,hg2]", "--batch-size", batch),
                *(*threads, *at.quickly, "--json", str(at.result("train-step"))),
            ),
            result=at.result("train-step"),
        ),
        Step(
            name="evaluate",
            words="what the network reaches on hands that it has not seen",
            command=(
                *("hgfast/evaluate.py", checkpoint, *at.data, "--split", "test", "--device", "cuda", "--baselines"),
                *("--json", str(at.result("evaluate")), "--sheet", str(at.work / "predictions.jpg")),
            ),
            result=at.result("evaluate"),
            needs=network,
        ),
        Step(
            name="decode",
            words="decoding heatmaps on the GPU",
            command=("bench/decode.py", "--device", "cuda", *at.quickly, "--json", str(at.result("decode"))),
            result=at.result("decode"),
        ),
        *exports,
        Step(
            name="pckh",
            words="accuracy of every artefact beside the checkpoint's",
            command=("bench/pckh.py", checkpoint, *at.data, "--split", "test", "--json", str(at.result("pckh"))),
            result=at.result("pckh"),
            needs=network,
            if_there=artefacts,
        ),
        Step(
            name="latency",
            words="how long each takes",
            command=("bench/latency.py", checkpoint, "--batch", "[1,8]", *at.quickly, "--json", str(at.result("latency"))),
            result=at.result("latency"),
            needs=network,
            if_there=artefacts,
        ),
        Step(
            name="all-gpus",
            words="training on all GPUs under torchrun",
            command=(
                *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(gpus)),
                *train(at, "hg2-all-gpus", 32 * gpus, min(at.minutes, 2.0), 2),
            ),
            needs=(at.drawn,),
            makes=at.work / "hg2-all-gpus" / "best.pt",
            impossible="" if at.gpus > 1 else "there is one GPU here",
        ),
    ]


def train(at: Setting, name: str, batch: int, minutes: float, epochs: int) -> tuple[str, ...]:
    """Training hg2 on the hands, as hgfast trains by default but for the rotation."""
    return (
        *("hgfast/train.py", *at.data, "--exp", name, "--out", str(at.work), "--overwrite", "--device", "cuda"),
        *("--model.preset", "hg2", "--batch-size", str(batch), "--augment.rotation", "180"),
        *("--train.epochs", str(epochs), "--train.max-minutes", f"{minutes:g}"),
    )


def onnx_and_torchscript(at: Setting) -> list[Step]:
    """Exports that need no TensorRT."""
    onnx = [export(at, f"onnx-{p}", f"ONNX, {p}", "export/to_onnx.py", p, f"best.{p}.onnx") for p in ("fp32", "fp16", "int8")]
    scripts = [
        export(at, f"torchscript-{p}", f"TorchScript, {p}", "export/torchscript.py", p, f"best.{p}.torchscript")
        for p in ("fp32", "fp16")
    ]
    return [*onnx, *scripts]


def engines(at: Setting) -> list[Step]:
    """Engines by the first library that can build here, in every precision; and by the others, to see that they do.
    They lie in a folder of their own, for their ONNX files lie beside them; heatmaps are compared only where they are given."""
    outputs = ("--outputs", "keypoints,heatmaps")
    found = [
        export(
            at,
            f"engine-{p}",
            f"TensorRT engine, {p}",
            "export/trt.py",
            p,
            f"engines/best.{p}.engine",
            "--backend",
            "auto",
            *outputs,
        )
        for p in ("fp32", "fp16", "int8")
    ]
    for name, backend, title in (("rtx", "tensorrt_rtx", "TensorRT-RTX"), ("torch", "torch_tensorrt", "Torch-TensorRT")):
        file, words = f"engines/best.fp16.{name}.engine", f"engine by {title}, fp16"
        found.append(export(at, f"engine-{name}-fp16", words, "export/trt.py", "fp16", file, "--backend", backend, *outputs))
    return found


def export(at: Setting, name: str, words: str, script: str, precision: str, file: str, *flags: str) -> Step:
    """An export of the trained network, verified on its own pictures."""
    artefact = at.checkpoint.parent / file
    int8 = ("--calibration", "32", "--max-loss", "100") if at.quick and precision == "int8" else ()
    return Step(
        name=name,
        words=f"{words}, verified",
        command=(script, str(at.checkpoint), "--precision", precision, *flags, *int8, *at.data, "--out", str(artefact)),
        needs=(at.drawn, at.checkpoint),
        makes=artefact,
        artefact=True,
        missing=NO_BACKEND if script == "export/trt.py" else "",
    )
