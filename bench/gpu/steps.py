"""Steps of `gpu_check.py` in order: the command, inputs and outputs of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

NO_BACKEND_PATTERN = (
    r"nothing here builds TensorRT engines|(TensorRT|TensorRT-RTX|Torch-TensorRT) cannot be imported|"
    r"Torch-TensorRT gets fp32 and fp16"
)
"""Matches the error of export/trt.py (exit code 2) if no installed library builds the engine: not possible instead of failed."""
LARGE_GPU_GB = 40.0  # GPU memory from which the training benchmark uses batches of 32


@dataclass(frozen=True, kw_only=True)
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
    def quick_flags(self) -> tuple[str, ...]:
        """Flags for the scripts that have --quick."""
        return ("--quick",) if self.quick else ()

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


def gpu_check_steps(settings: GpuCheckSettings) -> list[Step]:
    """Return all steps in order."""
    exports = [*onnx_and_torchscript_steps(settings), *engine_steps(settings)]
    artifacts = tuple(step.produces for step in exports if step.produces is not None)
    checkpoint = str(settings.checkpoint)
    network = (settings.hands_marker, settings.checkpoint)
    threads = ("--threads", str(settings.threads))
    gpus = max(settings.gpus, 2)  # with one GPU the step is only listed
    batch = "32" if settings.gpu_memory_gb >= LARGE_GPU_GB else "8"
    return [
        Step(name="tests", description="the tests that need a GPU", command=("-m", "pytest", "-m", "gpu", "-rs")),
        Step(
            name="loader",
            description="throughput of DALI on the GPU, DALI on the CPU and other loaders",
            command=("bench/loader.py", *threads, *settings.quick_flags, "--json", str(settings.record_path("loader"))),
            record=settings.record_path("loader"),
        ),
        Step(
            name="data",
            description="write synthetic hands",
            command=(
                *("pipelines/synthetic.py", "freihand", "--out", str(settings.hands_dir)),
                *("--count", "200" if settings.quick else "4000", "--seed", "0", "--overwrite"),
            ),
            produces=settings.hands_marker,
        ),
        Step(
            name="training",
            description="train hg2 on synthetic hands",
            command=train_command(settings, "hg2", 32, settings.train_minutes, 2 if settings.quick else 30),
            requires=(settings.hands_marker,),
            produces=settings.checkpoint,
        ),
        Step(
            name="train-step",
            description="training throughput compared with princeton, torch.compile, CUDA graphs and DDP",
            command=(
                *("bench/train_step.py", "--device", "cuda", "--presets", "[hg1,hg2]", "--batch-size", batch),
                *(*threads, *settings.quick_flags, "--json", str(settings.record_path("train-step"))),
            ),
            record=settings.record_path("train-step"),
        ),
        Step(
            name="evaluate",
            description="accuracy of the network on held-out hands",
            command=(
                *("hgfast/evaluate.py", checkpoint, *settings.data_flags, "--split", "test", "--device", "cuda", "--baselines"),
                *("--json", str(settings.record_path("evaluate")), "--sheet", str(settings.work / "predictions.jpg")),
            ),
            record=settings.record_path("evaluate"),
            requires=network,
        ),
        Step(
            name="decode",
            description="heatmap decoders on the GPU",
            command=("bench/decode.py", "--device", "cuda", *settings.quick_flags, "--json", str(settings.record_path("decode"))),
            record=settings.record_path("decode"),
        ),
        *exports,
        Step(
            name="pckh",
            description="accuracy of the checkpoint and of every artifact",
            command=(
                *("bench/pckh.py", checkpoint, *settings.data_flags, "--split", "test"),
                *("--json", str(settings.record_path("pckh"))),
            ),
            record=settings.record_path("pckh"),
            requires=network,
            optional_args=artifacts,
        ),
        Step(
            name="latency",
            description="latency of the checkpoint and of every artifact",
            command=(
                *("bench/latency.py", checkpoint, "--batch", "[1,8]", *settings.quick_flags),
                *("--json", str(settings.record_path("latency"))),
            ),
            record=settings.record_path("latency"),
            requires=network,
            optional_args=artifacts,
        ),
        Step(
            name="all-gpus",
            description="training on all GPUs under torchrun",
            command=(
                *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(gpus)),
                *train_command(settings, "hg2-all-gpus", 32 * gpus, min(settings.train_minutes, 2.0), 2),
            ),
            requires=(settings.hands_marker,),
            produces=settings.work / "hg2-all-gpus" / "best.pt",
            skip_reason="" if settings.gpus > 1 else "there is one GPU here",
        ),
    ]


def train_command(settings: GpuCheckSettings, name: str, batch: int, minutes: float, epochs: int) -> tuple[str, ...]:
    """Return the command that trains hg2 on the hands with default settings except for the rotation."""
    return (
        *("hgfast/train.py", *settings.data_flags, "--exp", name, "--out", str(settings.work), "--overwrite", "--device", "cuda"),
        *("--model.preset", "hg2", "--batch-size", str(batch), "--augment.rotation", "180"),
        *("--train.epochs", str(epochs), "--train.max-minutes", f"{minutes:g}"),
    )


def onnx_and_torchscript_steps(settings: GpuCheckSettings) -> list[Step]:
    """Return the exports that do not need TensorRT."""
    onnx = [
        export_step(settings, f"onnx-{p}", f"ONNX, {p}", "export/to_onnx.py", p, f"best.{p}.onnx")
        for p in ("fp32", "fp16", "int8")
    ]
    scripts = [
        export_step(settings, f"torchscript-{p}", f"TorchScript, {p}", "export/torchscript.py", p, f"best.{p}.torchscript")
        for p in ("fp32", "fp16")
    ]
    return [*onnx, *scripts]


def engine_steps(settings: GpuCheckSettings) -> list[Step]:
    """Return the engines of the first library that builds here, in every precision, and a smoke test of the other libraries.

    Engines have their own folder because their ONNX files lie beside them. Both outputs are exported because verification
    compares heatmaps only if the engine returns them.
    """
    outputs = ("--outputs", "keypoints,heatmaps")
    steps = []
    for p in ("fp32", "fp16", "int8"):
        file, flags = f"engines/best.{p}.engine", ("--backend", "auto", *outputs)
        steps.append(export_step(settings, f"engine-{p}", f"TensorRT engine, {p}", "export/trt.py", p, file, *flags))
    for name, backend, title in (("rtx", "tensorrt_rtx", "TensorRT-RTX"), ("torch", "torch_tensorrt", "Torch-TensorRT")):
        file, description = f"engines/best.fp16.{name}.engine", f"engine by {title}, fp16"
        flags = ("--backend", backend, *outputs)
        steps.append(export_step(settings, f"engine-{name}-fp16", description, "export/trt.py", "fp16", file, *flags))
    return steps


def export_step(
    settings: GpuCheckSettings, name: str, description: str, script: str, precision: str, file: str, *flags: str
) -> Step:
    """Return the export of the trained network, verified on its data set."""
    artifact = settings.checkpoint.parent / file
    int8 = ("--calibration", "32", "--max-loss", "100") if settings.quick and precision == "int8" else ()
    return Step(
        name=name,
        description=f"{description}, verified",
        command=(
            script,
            str(settings.checkpoint),
            "--precision",
            precision,
            *flags,
            *int8,
            *settings.data_flags,
            "--out",
            str(artifact),
        ),
        requires=(settings.hands_marker, settings.checkpoint),
        produces=artifact,
        is_artifact=True,
        missing_pattern=NO_BACKEND_PATTERN if script == "export/trt.py" else "",
    )
