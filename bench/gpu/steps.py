"""Steps of `gpu_check.py` in order: the command, inputs and outputs of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

NO_BACKEND_PATTERN = (
    r"nothing here builds TensorRT engines|(TensorRT|TensorRT-RTX|Torch-TensorRT) cannot be imported|"
    r"Torch-TensorRT gets fp32 and fp16"
)
"""Matches the error of export/trt.py (exit code 2) if no installed library builds the engine: not possible instead of failed."""
PRECISIONS = ("fp32", "fp16", "int8")
EXPORTS = (
    *((f"onnx-{p}", "ONNX", "to_onnx", p, f"best.{p}.onnx", "") for p in PRECISIONS),
    *((f"torchscript-{p}", "TorchScript", "torchscript", p, f"best.{p}.torchscript", "") for p in PRECISIONS[:2]),
    *((f"engine-{p}", "TensorRT engine", "trt", p, f"engines/best.{p}.engine", "auto") for p in PRECISIONS),
    ("engine-rtx-fp16", "engine by TensorRT-RTX", "trt", "fp16", "engines/best.fp16.rtx.engine", "tensorrt_rtx"),
    ("engine-torch-fp16", "engine by Torch-TensorRT", "trt", "fp16", "engines/best.fp16.torch.engine", "torch_tensorrt"),
)
"""Name, description, script, precision, file and --backend of each export: engines of the first library that builds here in every
precision, and a smoke test of the other libraries. Engines have their own folder because their ONNX files lie beside them. Both
outputs of an engine are exported because verification compares heatmaps only if the engine returns them."""
LARGE_GPU_GB = 40.0  # GPU memory from which the training benchmark uses batches of 32


@dataclass(frozen=True)
class Step:
    """One command.

    description: what the step measures. command: arguments of Python. record: the file that it writes to --out.
    requires: input files; the step is not possible without them. produces: a file that it writes to --work; is_artifact: that
    file is an exported network with a sidecar. optional_args: paths to append to the command if they exist. skip_reason: why
    the step cannot run here. missing_pattern: regular expression for the error (exit code 2) of a missing library.
    """

    name: str
    description: str
    command: tuple[str, ...]
    record: Path | None = None
    requires: tuple[Path, ...] = ()
    produces: Path | None = None
    is_artifact: bool = False
    optional_args: tuple[Path, ...] = ()
    skip_reason: str = ""
    missing_pattern: str = ""


@dataclass(frozen=True, kw_only=True)
class GpuCheckSettings:
    """Settings of the steps. slug: name of the GPU in file names. gpus: their number. gpu_memory_gb: of the first GPU."""

    slug: str
    gpus: int
    gpu_memory_gb: float
    threads: int
    out: Path
    work: Path
    quick: bool
    train_minutes: float

    def record_path(self, bench: str) -> Path:
        return self.out / f"{bench}-{self.slug}.json"

    @property
    def hands_dir(self) -> Path:
        return self.work / "hands"

    @property
    def data_flags(self) -> tuple[str, ...]:
        return ("--dataset", "freihand", "--data", str(self.hands_dir))

    @property
    def hands_marker(self) -> Path:
        """The file that synthetic.py writes last."""
        return self.hands_dir / "training_K.json"

    @property
    def checkpoint(self) -> Path:
        return self.work / "hg2" / "best.pt"


def words(text: str, *more: object) -> tuple[str, ...]:
    """Return the words of a command, of which `more` may contain spaces."""
    return (*text.split(), *map(str, more))


def gpu_check_steps(settings: GpuCheckSettings) -> list[Step]:
    """Return all steps in order."""
    exports = export_steps(settings)
    artifacts = tuple(step.produces for step in exports if step.produces is not None)
    checkpoint, hands = settings.checkpoint, settings.hands_marker
    gpus = max(settings.gpus, 2)  # with one GPU the step is only listed
    quick, threads = words("--quick" * settings.quick), words(f"--threads {settings.threads}")
    batch = 32 if settings.gpu_memory_gb >= LARGE_GPU_GB else 8
    on_test = (str(checkpoint), *settings.data_flags, "--split", "test")

    def bench(name: str, description: str, *command: str, needs_network: bool = True) -> Step:
        """Return a step that writes a record, of the trained network unless `needs_network` is False."""
        path = settings.record_path(name)
        requires, optional = ((hands, checkpoint), artifacts) if needs_network else ((), ())
        optional = () if name == "evaluate" else optional
        return Step(name, description, (*command, "--json", str(path)), path, requires, optional_args=optional)

    return [
        Step("tests", "the tests that need a GPU", words("-m pytest -m gpu -rs")),
        bench(
            "loader",
            "throughput of DALI on the GPU, DALI on the CPU and other loaders",
            *("bench/loader.py", *threads, *quick),
            needs_network=False,
        ),
        Step(
            "data",
            "write synthetic hands",
            words("pipelines/synthetic.py freihand --out", settings.hands_dir)
            + words(f"--count {200 if settings.quick else 4000} --seed 0 --overwrite"),
            produces=hands,
        ),
        Step(
            "training",
            "train hg2 on synthetic hands",
            train_command(settings, "hg2", 32, settings.train_minutes, 2 if settings.quick else 30),
            requires=(hands,),
            produces=checkpoint,
        ),
        bench(
            "train-step",
            "training throughput compared with princeton, torch.compile, CUDA graphs and DDP",
            *words(f"bench/train_step.py --device cuda --presets [hg1,hg2] --batch-size {batch}", *threads, *quick),
            needs_network=False,
        ),
        bench(
            "evaluate",
            "accuracy of the network on held-out hands",
            *("hgfast/evaluate.py", *on_test, *words("--device cuda --baselines --sheet", settings.work / "predictions.jpg")),
        ),
        bench("decode", "heatmap decoders on the GPU", *words("bench/decode.py --device cuda", *quick), needs_network=False),
        *exports,
        bench("pckh", "accuracy of the checkpoint and of every artifact", "bench/pckh.py", *on_test),
        bench(
            "latency",
            "latency of the checkpoint and of every artifact",
            *words("bench/latency.py", checkpoint, "--batch", "[1,8]", *quick),
        ),
        Step(
            "all-gpus",
            "training on all GPUs under torchrun",
            words(f"-m torch.distributed.run --standalone --nproc-per-node {gpus}")
            + train_command(settings, "hg2-all-gpus", 32 * gpus, min(settings.train_minutes, 2.0), 2),
            requires=(hands,),
            produces=settings.work / "hg2-all-gpus" / "best.pt",
            skip_reason="" if settings.gpus > 1 else "there is one GPU here",
        ),
    ]


def train_command(settings: GpuCheckSettings, name: str, batch: int, minutes: float, epochs: int) -> tuple[str, ...]:
    """Return the command that trains hg2 on the hands with default settings except for the rotation."""
    return (
        *("hgfast/train.py", *settings.data_flags, "--out", str(settings.work)),
        *words(f"--exp {name} --overwrite --device cuda --model.preset hg2 --batch-size {batch} --augment.rotation 180"),
        *words(f"--train.epochs {epochs} --train.max-minutes {minutes:g}"),
    )


def export_steps(settings: GpuCheckSettings) -> list[Step]:
    """Return the exports of the trained network, verified on its data set."""
    steps = []
    for name, title, script, precision, file, backend in EXPORTS:
        artifact = settings.checkpoint.parent / file
        flags = words(f"--backend {backend} --outputs keypoints,heatmaps") if backend else ()
        out = ("--out", str(artifact))
        flags += words("--calibration 32 --max-loss 100") if settings.quick and precision == "int8" else ()
        steps.append(
            Step(
                name,
                f"{title}, {precision}, verified",
                words(f"export/{script}.py", settings.checkpoint, "--precision", precision, *flags, *settings.data_flags, *out),
                requires=(settings.hands_marker, settings.checkpoint),
                produces=artifact,
                is_artifact=True,
                missing_pattern=NO_BACKEND_PATTERN if backend else "",
            )
        )
    return steps
