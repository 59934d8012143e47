"""Packaging: the packages are named one by one, so that tests, data and experiments never end up in a wheel."""

from setuptools import setup

TRAIN = [
    "torch>=2.11",
    "nvidia-dali-cuda130>=2.0; sys_platform == 'linux'",
    "docstring-parser>=0.16",
    "h5py>=3.11",
    "Jinja2>=3.1",
    "jsonargparse[signatures]>=4.49",
    "PyYAML>=6",
    "scipy>=1.15",
    "tabulate>=0.9",
    "tensorboard>=2.18",
    "tqdm>=4.66",
]
EXPORT = ["onnx>=1.18", "onnxruntime>=1.20", "onnxscript>=0.6", "openvino>=2025.0"]
TENSORRT = ["cuda-bindings>=12.6; sys_platform == 'linux'"]  # TensorRT itself is the machine's: an engine runs on its version
RTX = [
    "cuda-bindings>=12.6; sys_platform == 'linux'",
    "tensorrt-rtx-cu13-bindings>=1.7; sys_platform == 'linux'",
    "tensorrt-rtx-cu13-libs>=1.7; sys_platform == 'linux'",
]
BENCH = ["matplotlib>=3.10", "pillow>=11"]
DEV = [
    "flask>=3",
    "hypothesis>=6.130",
    "mypy>=1.15",
    "nlohmann-json>=3.11",
    "pillow>=11",
    "pytest>=8",
    "pytest-cov>=7",
    "pytest-xdist>=3.6",
    "ruff>=0.9",
    "scipy-stubs",
    "types-PyYAML",
    "types-jsonschema",
    "types-tabulate",
    "types-tqdm",
    "types-waitress",
    "waitress>=3",
]

setup(
    name="hgfast",
    version="0.1.0",
    description="Stacked hourglass networks for poses, trained fast and shipped as an engine",
    license="MIT",
    python_requires=">=3.10",
    packages=["hgfast", "pipelines", "pipelines.drawn"],
    package_data={"hgfast": ["py.typed", "*.json", "*.j2"]},
    install_requires=["jsonschema>=4.20", "numpy>=1.26", "opencv-python-headless>=4.9"],
    extras_require={"train": TRAIN, "export": EXPORT, "tensorrt": TENSORRT, "rtx": RTX, "bench": BENCH, "dev": DEV},
)
