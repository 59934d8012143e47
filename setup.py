"""Packaging: everything is installed under `hgfast.`; tests, results and examples are not."""

import re
from pathlib import Path

from setuptools import find_packages, setup

BASE = [  # what Session and `hgfast predict` need for an exported network
    "docstring-parser>=0.16",
    "jsonargparse[signatures]>=4.49",
    "jsonschema>=4.20",
    "numpy>=2",  # as OpenCV requires
    "opencv-python-headless>=4.13",  # older ones map floating-point images to 8 bits with a tone curve
    "PyYAML>=6",
    "tqdm>=4.66",
]
TRAIN = [
    "torch>=2.11",
    # With DALI 2.2 (which requires nvimgcodec 0.8), 2.3 and 2.4 (0.9), the crops agree with OpenCV's on a CPU. Older ones have
    # not been tried, and before April 2026 DALI could invalidate the capture of a CUDA graph. nvimgcodec 0.9.0 crashes on a GPU
    # when it decodes a region of a JPEG, which DaliLoader therefore does not ask for.
    "nvidia-dali-cuda130>=2.2; sys_platform == 'linux'",
    "nvidia-nvjpeg>=13.2; sys_platform == 'linux'",  # nvimgcodec accepts any; older ones let the CPU decode more
    "h5py>=3.11",
    "Jinja2>=3.1",
    "scipy>=1.15",
    "tabulate>=0.9",
    "tensorboard>=2.18",
]
EXPORT = ["onnx>=1.18", "onnxruntime>=1.20", "onnxscript>=0.6", "openvino>=2026.1"]  # older: free batch sizes fail, aborts
TENSORRT = ["cuda-bindings>=12.6; sys_platform == 'linux'"]  # without TensorRT: its version must match the engine's
RTX = [
    "cuda-bindings>=12.6; sys_platform == 'linux'",
    "tensorrt-rtx-cu13-bindings>=1.7; sys_platform == 'linux'",
    "tensorrt-rtx-cu13-libs>=1.7; sys_platform == 'linux'",
]
IMAGES = ["pi-heif>=1", "pillow>=11.3"]  # HEIC and AVIF; the wheels of pi-heif hold libheif and libde265 (LGPL-3.0)
BENCH = ["matplotlib>=3.10.7", "pillow>=11"]
CONVERT = ["sleap-io>=0.9"]
DEV = [
    "flask>=3",
    "hypothesis>=6.130",
    "mypy>=1.15",
    "nlohmann-json>=3.11",
    *IMAGES,
    "sleap-io>=0.9; python_version >= '3.11'",  # CONVERT; not tried with Python 3.10
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

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "hgfast/__init__.py").read_text("utf-8"), re.MULTILINE)
assert VERSION is not None

setup(
    name="hgfast",
    version=VERSION[1],
    description="Stacked hourglass networks for poses, trained fast and shipped as an engine",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    keywords=["pose estimation", "keypoint detection", "stacked hourglass", "hand pose", "DALI", "ONNX", "TensorRT"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=find_packages(include=["hgfast", "hgfast.*"]),  # hgfast/pipelines, hgfast/export and hgfast/bench are symbolic links
    package_data={
        "hgfast": ["py.typed"],
        "hgfast.reporting": ["*.j2"],
        "hgfast.runtime": ["*.json"],
        "hgfast.pipelines.readers": ["skeletons/*.yaml"],
    },
    entry_points={"console_scripts": ["hgfast = hgfast.__main__:main"]},
    install_requires=BASE,
    extras_require={
        "train": TRAIN,
        "export": EXPORT,
        "tensorrt": TENSORRT,
        "rtx": RTX,
        "images": IMAGES,
        "bench": BENCH,
        "convert": CONVERT,
        "dev": DEV,
    },
)
