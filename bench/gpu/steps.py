"""Steps of `gpu_check.py` in order: the command, inputs and outputs of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hgfast.config import LoaderName

NO_BACKEND_PATTERN = (
    r"nothing here builds TensorRT engines|(TensorRT|TensorRT-RTX|Torch-TensorRT) cannot be imported|"
    r"Torch-TensorRT gets fp32 and fp16|TensorRT-RTX does not support this GPU"
)
"""Matches the error of export/trt.py (exit code 2) if no installed library builds an engine for this GPU: not possible instead of
failed."""
NO_DALI_PATTERN = "NVIDIA DALI is not installed"
NO_RUNTIME_PATTERN = "is needed to run this artifact and is not installed"
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
WITHOUT_QUICK = ("bench/pckh.py", "hgfast/evaluate.py")  # scripts without the flag --quick
LARGE_GPU_GB = 40.0  # GPU memory from which the training benchmark uses batches of 32


@dataclass(frozen=True)
class Step:
    """One command.

    description: what the step measures. command: arguments of Python. record: the file that it writes to --out.
    minutes: expected duration on a GPU; the step is not started if less time is left. requires: input files; the step is not
    possible without them. produces: a file that it writes to --work; is_artifact: that file is an exported network with a
    sidecar; is_training: it is the checkpoint of a run, beside its metrics.jsonl. optional_args: paths to append to the command
    if they exist. skip_reason: why the step cannot run here. missing_pattern: regular expression for the error (exit code 2) of
    a missing library.
    """

    name: str
    description: str
    command: tuple[str, ...]
    record: Path | None = None
    minutes: float = 1.0
    requires: tuple[Path, ...] = ()
    produces: Path | None = None
    is_artifact: bool = False
    is_training: bool = False
    optional_args: tuple[Path, ...] = ()
    skip_reason: str = ""
    missing_pattern: str = ""


@dataclass(frozen=True, kw_only=True)
class GpuCheckSettings:
    """Settings of the steps. slug: name of the GPU in file names. gpus: their number. gpu_memory_gb: of the first GPU. loader:
    of the training runs, the evaluations and the accuracy of exports. train_minutes: of each training run. rehearse: run on the
    CPU with the smallest sizes."""

    slug: str
    gpus: int
    gpu_memory_gb: float
    threads: int
    out: Path
    work: Path
    quick: bool
    loader: LoaderName
    train_minutes: float
    rehearse: bool = False

    def record_path(self, bench: str) -> Path:
        return self.out / f"{bench}-{self.slug}.json"

    @property
    def device(self) -> str:
        return "cpu" if self.rehearse else "cuda"

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
        return self.work / "training" / "best.pt"


def words(text: str, *more: object) -> tuple[str, ...]:
    """Return the words of a command, of which `more` may contain spaces."""
    return (*text.split(), *map(str, more))


def gpu_check_steps(settings: GpuCheckSettings) -> list[Step]:
    """Return all steps, the most valuable first: without DALI, with DALI, exports, and last TensorRT-RTX."""
    exports = {step.name: step for step in export_steps(settings)}
    scripts = [step for name, step in exports.items() if name.startswith("torchscript")]
    rtx = exports.pop("engine-rtx-fp16")
    others = [step for step in exports.values() if step not in scripts]
    return [
        gpu_tests_step("tests-hgfast", "the GPU tests that need no DALI, tests/hgfast", "gpu and not dali", "hgfast"),
        gpu_tests_step("tests-export", "the same, the other folders", "gpu and not dali", "export bench pipelines"),
        data_step(settings),
        training_step(settings, "training", "hg2 on synthetic hands"),
        *scripts,
        *(latency_step(settings, batch, "", "torch and TorchScript", scripts) for batch in (1, 8)),
        train_step_step(settings, "hg2", "none"),
        bench_step(settings, "decode", "heatmap decoders", words("bench/decode.py --device", settings.device), minutes=0.5),
        evaluate_step(settings),
        training_step(settings, "training-compile", "the same with torch.compile", "--train.compile on"),
        training_step(settings, "training-graphs", "the same with CUDA graphs", "--train.compile graphs", cpu=False),
        training_step(settings, "training-fp16", "the same in fp16 with its scaler", "--train.amp fp16", cpu=False),
        *(self_test_step(settings, load) for load in ("0", "0.65")),
        gpu_tests_step("tests-dali", "the GPU tests that need DALI", "gpu and dali", "pipelines hgfast export bench"),
        *(loader_step(settings, layout) for layout in ("freihand", "mpii")),
        train_step_step(settings, "hg2", "dali"),
        training_step(settings, "training-dali", "hg2 with DALI on the GPU", loader="dali"),
        latency_step(settings, 32, "", "torch and TorchScript", scripts),
        train_step_step(settings, "hg1", "none"),
        *others,
        bench_step(
            settings,
            "pckh",
            "accuracy of the checkpoint and of every artifact",
            ("bench/pckh.py", *on_test_split(settings)),
            minutes=2.0,
            requires=(settings.hands_marker, settings.checkpoint),
            artifacts=[*scripts, *others],
        ),
        latency_step(settings, 1, "exports-", "every artifact", [*scripts, *others]),
        all_gpus_step(settings),
        rtx,
    ]


def gpu_tests_step(name: str, description: str, markers: str, folders: str) -> Step:
    """Return a step that runs the tests with these markers in folders of tests/. Warnings are not errors: torch's sync-debug mode
    warns, and other versions of libraries have warnings of their own."""
    flags = words("-W default -p no:cacheprovider --continue-on-collection-errors")
    paths = (f"tests/{folder}" for folder in folders.split())
    return Step(name, description, ("-m", "pytest", "-m", markers, *flags, *paths), minutes=2.0)


def self_test_step(settings: GpuCheckSettings, load: str) -> Step:
    """Return a step that shows in a child process whether DALI crashes or corrupts images, with this share of JPEGs for the
    hardware decoder."""
    command = words(f"pipelines/self_test.py --device {settings.device} --hw-decoder-load {load}")
    title = f"DALI's crops compared with OpenCV's, hardware decoder load {load}"
    return Step(f"dali-self-test-{load}", title, command, minutes=0.5, missing_pattern=NO_DALI_PATTERN)


def data_step(settings: GpuCheckSettings) -> Step:
    count = 50 if settings.rehearse else 200 if settings.quick else 4000
    command = words("pipelines/synthetic.py freihand --out", settings.hands_dir, *words(f"--count {count} --seed 0 --overwrite"))
    return Step("data", "write synthetic hands", command, minutes=1.0, produces=settings.hands_marker)


def bench_step(
    settings: GpuCheckSettings,
    name: str,
    description: str,
    command: tuple[str, ...],
    *,
    minutes: float,
    requires: tuple[Path, ...] = (),
    artifacts: Sequence[Step] = (),
    missing_pattern: str = "",
) -> Step:
    """Return a step that writes a record, of these artifacts too."""
    path = settings.record_path(name)
    command = (*command, *words("--quick" * (settings.quick and command[0] not in WITHOUT_QUICK)), "--json", str(path))
    paths = tuple(step.produces for step in artifacts if step.produces is not None)
    return Step(name, description, command, path, minutes, requires, optional_args=paths, missing_pattern=missing_pattern)


def loader_step(settings: GpuCheckSettings, layout: str) -> Step:
    command = words(f"bench/loader.py --layouts [{layout}] --index false --threads {settings.threads} --rounds 3 --seconds 1")
    title = f"loaders, {layout}: DALI on the GPU and on the CPU, OpenCV, princeton"
    return bench_step(settings, f"loader-{layout}", title, command, minutes=3.0, missing_pattern=NO_DALI_PATTERN)


def train_step_step(settings: GpuCheckSettings, preset: str, loader: str) -> Step:
    """Return the training benchmark of a preset: of the network alone if `loader` is none."""
    batch = 2 if settings.rehearse else 32 if settings.gpu_memory_gb >= LARGE_GPU_GB else 8
    flags = f"--presets [{preset}] --loader {loader} --batch-size {batch} --threads {settings.threads} --rounds 3 --seconds 2"
    what = f"training step of {preset} compared with princeton, torch.compile, CUDA graphs and DDP"
    name = f"train-step-{preset}" + (f"-{loader}" if loader != "none" else "")
    command = words(f"bench/train_step.py --device {settings.device} {flags}")
    return bench_step(
        settings,
        name,
        what + (f", fed by {loader}" if loader != "none" else ""),
        command,
        minutes=3.5,
        missing_pattern=NO_DALI_PATTERN,
    )


def latency_step(settings: GpuCheckSettings, batch: int, prefix: str, what: str, artifacts: Sequence[Step]) -> Step:
    command = words("bench/latency.py", settings.checkpoint, *words(f"--batch [{batch}] --rounds 3 --seconds 1"))
    name, requires = f"latency-{prefix}{batch}", (settings.checkpoint,)
    title = f"latency of {what}, batch {batch}"
    return bench_step(
        settings,
        name,
        title,
        command,
        minutes=2.5,
        requires=requires,
        artifacts=artifacts,
        missing_pattern=NO_RUNTIME_PATTERN,  # the other runtimes are measured
    )


def on_test_split(settings: GpuCheckSettings) -> tuple[str, ...]:
    return (str(settings.checkpoint), *settings.data_flags, *words(f"--split test --loader {settings.loader}"))


def evaluate_step(settings: GpuCheckSettings) -> Step:
    sheet = settings.work / "predictions.jpg"
    return bench_step(
        settings,
        "evaluate",
        "accuracy of the network on held-out hands",
        ("hgfast/evaluate.py", *on_test_split(settings), *words(f"--device {settings.device} --baselines --sheet", sheet)),
        minutes=0.5,
        requires=(settings.hands_marker, settings.checkpoint),
    )


def training_step(
    settings: GpuCheckSettings, name: str, description: str, flags: str = "", *, loader: str = "", cpu: bool = True
) -> Step:
    """Return a training run with default settings except for the rotation and `flags`. cpu: whether a CPU can run it."""
    return Step(
        name,
        f"train {description}",
        ("hgfast/train.py", *train_flags(settings, name, 1, loader or settings.loader), *flags.split()),
        minutes=settings.train_minutes + 0.5,
        requires=(settings.hands_marker,),
        produces=settings.work / name / "best.pt",
        is_training=True,
        missing_pattern=NO_DALI_PATTERN,
        skip_reason="" if cpu or not settings.rehearse else "needs a GPU",
    )


def all_gpus_step(settings: GpuCheckSettings) -> Step:
    gpus = max(settings.gpus, 2)  # with one GPU the step is only listed
    launch = words(f"-m torch.distributed.run --standalone --nproc-per-node {gpus} hgfast/train.py")
    return Step(
        "all-gpus",
        "training on all GPUs under torchrun",
        (*launch, *train_flags(settings, "all-gpus", gpus, settings.loader)),
        minutes=settings.train_minutes + 0.5,
        requires=(settings.hands_marker,),
        produces=settings.work / "all-gpus" / "best.pt",
        is_training=True,
        skip_reason="" if settings.gpus > 1 or settings.rehearse else "there is one GPU here",
    )


def train_flags(settings: GpuCheckSettings, name: str, gpus: int, loader: str) -> tuple[str, ...]:
    preset, batch = ("tiny", 4) if settings.rehearse else ("hg2", 32)
    return (
        *(*settings.data_flags, "--out", str(settings.work)),
        *words(f"--exp {name} --overwrite --device {settings.device} --loader {loader} --model.preset {preset}"),
        *words(f"--batch-size {batch * gpus} --augment.rotation 180 --train.epochs {2 if settings.quick else 1000}"),
        *words(f"--train.max-minutes {settings.train_minutes:g}"),
    )


def export_steps(settings: GpuCheckSettings) -> list[Step]:
    """Return the exports of the trained network, verified on its data set."""
    steps = []
    for name, title, script, precision, file, backend in EXPORTS:
        artifact = settings.checkpoint.parent / file
        flags = words(f"--backend {backend} --outputs keypoints,heatmaps") if backend else ()
        out = ("--out", str(artifact))
        if backend == "tensorrt_rtx" and not settings.rehearse:
            flags += words("--compute-capabilities [CURRENT]")  # also on a GPU that its documentation does not name
        flags += words("--calibration 32 --max-loss 100") if settings.quick and precision == "int8" else ()
        steps.append(
            Step(
                name,
                f"{title}, {precision}, verified",
                words(
                    f"export/{script}.py",
                    settings.checkpoint,
                    "--precision",
                    precision,
                    *flags,
                    *settings.data_flags,
                    *out,
                    "--loader",
                    settings.loader,
                ),
                minutes=2.0 if backend else 1.0,
                requires=(settings.hands_marker, settings.checkpoint),
                produces=artifact,
                is_artifact=not (backend and settings.rehearse),  # without a GPU an engine is not verified
                missing_pattern=NO_BACKEND_PATTERN if backend else "",
            )
        )
    return steps
