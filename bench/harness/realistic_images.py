"""Synthetic images that take as long to decode as real ones: with the same size, person scale and bytes per pixel.

The decoding time of a JPEG depends on its pixels and bytes, not on its content. Synthetic images are therefore enlarged to the
size of real images, and noise or blur is added until they have as many bytes per pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from hgfast.errors import HgfastError
from hgfast.fileio.files import write_bytes
from hgfast.geometry import to_opencv_matrix, transform_points
from hgfast.pipelines.readers.freihand import read_freihand
from hgfast.pipelines.readers.mpii_h5 import read_mpii
from hgfast.pipelines.samples import Samples
from hgfast.pipelines.synthetic_data.hand.freihand_layout import generate_freihand
from hgfast.pipelines.synthetic_data.people.mpii_layout import generate_mpii
from hgfast.visualization.draw import read_image

ImageArray = NDArray[np.uint8]
Array = NDArray[np.float64]
Placement = tuple[str, Array, tuple[int, int]]
"""Path of a synthetic image, its placement matrix (3, 3), and width and height of the target image."""


@dataclass(frozen=True)
class ImageStatistics:
    """Statistics of real images.

    sizes: width and height in pixels, used in turn. bytes_per_pixel: mean. quality: JPEG quality in libjpeg's scale, from the
    quantization tables of real files; chroma is 4:2:0, baseline. sides: quantiles (`QUANTILES`) of the sides of the crop squares
    in source pixels; None for whole images.
    """

    sizes: tuple[tuple[int, int], ...]
    bytes_per_pixel: float
    quality: int
    sides: tuple[float, ...] | None = None


QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
FREIHAND_STATISTICS = ImageStatistics(((224, 224),), bytes_per_pixel=0.507, quality=95)
"""From eight images of FreiHAND_pub_v2, all four versions of two hands: 0.32 to 0.76 bytes per pixel, quality 95."""
MPII_STATISTICS = ImageStatistics(
    ((1280, 720), (1280, 720), (1280, 720), (1920, 1080)),
    bytes_per_pixel=0.105,
    quality=80,
    sides=(200.0, 286.0, 475.0, 689.0, 1012.0, 1715.0, 2400.0),
)
"""From four images of 1280 x 720 in the test data of mmpose: 0.092 to 0.116 bytes per pixel, quality 75 to 81. They are
progressive; the synthetic ones are not, which decodes faster. The original files must be larger: the authors' archive has 12.9 GB
for about 25 000 images, 516 kB each, which is 0.43 bytes per pixel if one in four is 1920 x 1080. The quantiles of the sides are
those of the 2958 people of valid.h5."""
IMAGE_STATISTICS = {"freihand": FREIHAND_STATISTICS, "mpii": MPII_STATISTICS}
TOLERANCE = 0.1  # relative difference of the bytes per pixel from the statistics
FIT_IMAGES, MAX_PASSES = 12, 4  # images to which the noise level is fitted, and the maximum number of fits
MAX_NOISE_LEVEL, MIN_NOISE_LEVEL = 40.0, -4.0  # standard deviation of noise in gray levels; below 0: of a blur in pixels


class FileStatistics(NamedTuple):
    """Means over image files: bytes per pixel, file size in kB, and megapixels."""

    bytes_per_pixel: float
    kilobytes: float
    megapixels: float


def file_statistics(paths: Sequence[str] | NDArray[np.str_]) -> FileStatistics:
    """Return the mean file size and pixels; repeated paths count once."""
    sizes = []
    for path in sorted(set(map(str, paths))):
        with Image.open(path) as file:
            sizes.append((Path(path).stat().st_size, file.width * file.height))
    stats = np.array(sizes, np.float64)
    return FileStatistics(float((stats[:, 0] / stats[:, 1]).mean()), stats[:, 0].mean() / 1e3, stats[:, 1].mean() / 1e6)


def make_images(layout: str, statistics: ImageStatistics, folder: Path, count: int, workers: int) -> Samples:
    """Return up to `count` synthetic samples of a layout, one per image, in `folder`; existing images are reused.

    Raises:
        HgfastError: the bytes per pixel differ by more than `TOLERANCE`.
    """
    synthetic = take_evenly(make_synthetic(layout, folder / layout / f"drawn-{count}", count, workers), count)
    sizes = [statistics.sizes[n % len(statistics.sizes)] for n in range(len(synthetic))]
    matrices = placement_matrices(synthetic, sizes, statistics)
    folder = folder / layout / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [str(folder / f"{n:06d}.jpg") for n in range(len(synthetic))]
    placed = [(str(path), matrix, size) for path, matrix, size in zip(synthetic.paths, matrices, sizes)]
    for path, content in zip(map(Path, paths), encode_to_density(placed, statistics, workers)):
        if not path.exists() or path.read_bytes() != content:  # the crop cache identifies images by their modification time
            write_bytes(path, content)
    bytes_per_pixel = file_statistics(paths).bytes_per_pixel
    if abs(bytes_per_pixel / statistics.bytes_per_pixel - 1) > TOLERANCE:
        raise HgfastError(
            f"the synthetic {layout} images have {bytes_per_pixel:.3f} bytes per pixel instead of {statistics.bytes_per_pixel}: "
            "use more images"
        )
    return transform_samples(synthetic, matrices, np.array(paths))


def take_evenly(samples: Samples, count: int) -> Samples:
    """Return `count` evenly spaced samples, or all if there are fewer."""
    return samples.take(np.linspace(0, len(samples) - 1, min(count, len(samples))).astype(int))


def encode_to_density(placed: Sequence[Placement], statistics: ImageStatistics, workers: int) -> list[bytes]:
    """Return JPEGs of synthetic images with the mean bytes per pixel of `statistics`.

    The noise level is fitted to a few images; if all images then miss the target, the fit is repeated with a corrected one.
    """
    fit_images = [warp_to_size(*placed[n]) for n in np.linspace(0, len(placed) - 1, min(FIT_IMAGES, len(placed))).astype(int)]
    target = statistics.bytes_per_pixel
    with ThreadPoolExecutor(workers) as pool:
        for _ in range(MAX_PASSES):
            noise_level = fit_noise_level(fit_images, replace(statistics, bytes_per_pixel=target))

            def encode(n: int, level: float = noise_level) -> bytes:
                return encode_jpeg(warp_to_size(*placed[n]), level, statistics.quality, n)

            work = pool.map(encode, range(len(placed)))
            contents = list(tqdm(work, total=len(placed), unit="image", disable=None))
            density = np.mean([len(content) / (w * h) for content, (_, _, (w, h)) in zip(contents, placed)])
            if abs(density / statistics.bytes_per_pixel - 1) < TOLERANCE / 4:
                break
            target *= statistics.bytes_per_pixel / float(density)
    return contents


def make_synthetic(layout: str, folder: Path, count: int, workers: int) -> Samples:
    """Return the synthetic samples of a layout, which are generated if the folder has none."""
    if layout == "freihand":
        if not (folder / "training_K.json").exists():
            generate_freihand(folder, -(-count // 4), seed=0, evaluation=0, workers=workers, overwrite=True)
        return read_freihand(folder, "all")
    if not (folder / "annot" / "train.h5").exists():
        generate_mpii(folder, count, seed=0, valid=1, workers=workers, overwrite=True)
    return read_mpii(folder, "train")


def placement_matrices(samples: Samples, sizes: Sequence[tuple[int, int]], statistics: ImageStatistics) -> Array:
    """Return image_from_synthetic (N, 3, 3): the identity for whole images, otherwise a similarity that gives the person a side
    from the quantiles and a random center in the middle half of the image."""
    matrices = np.tile(np.eye(3), (len(samples), 1, 1))
    if statistics.sides is None:
        return matrices
    rng = np.random.default_rng(0)
    zoom = np.interp(rng.random(len(samples)), QUANTILES, statistics.sides) / samples.side
    center = rng.uniform(0.25, 0.75, (len(samples), 2)) * np.array(sizes)
    matrices[:, [0, 1], [0, 1]] = zoom[:, None]
    matrices[:, :2, 2] = center - zoom[:, None] * samples.center
    return matrices


def transform_samples(samples: Samples, matrices: Array, paths: NDArray[np.str_]) -> Samples:
    """Return the samples in other images: points transformed by `matrices` (N, 3, 3), lengths scaled by their zoom."""
    zoom = matrices[:, 0, 0]
    return replace(
        samples,
        paths=paths,
        center=transform_points(samples.center[:, None], matrices)[:, 0],
        side=samples.side * zoom,
        keypoints=transform_points(samples.keypoints, matrices),
        reference=samples.reference * zoom,
        group=np.arange(len(samples)),
    )


def warp_to_size(path: str, matrix: Array, size: tuple[int, int]) -> ImageArray:
    """Warp a synthetic image by its placement matrix, reflected beyond its borders."""
    m = to_opencv_matrix(matrix)[:2]
    image = read_image(path)
    return np.asarray(cv2.warpAffine(image, m, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101), np.uint8)


def fit_noise_level(images: Sequence[ImageArray], statistics: ImageStatistics) -> float:
    """Return the noise level at which the images have the bytes per pixel of `statistics`, by bisection."""
    low, high = MIN_NOISE_LEVEL, MAX_NOISE_LEVEL
    for _ in range(9):
        noise_level = (low + high) / 2
        densities = [
            len(encode_jpeg(p, noise_level, statistics.quality, n)) / (p.shape[0] * p.shape[1]) for n, p in enumerate(images)
        ]
        low, high = (low, noise_level) if np.mean(densities) > statistics.bytes_per_pixel else (noise_level, high)
    return noise_level


def encode_jpeg(image: ImageArray, noise_level: float, quality: int, seed: int) -> bytes:
    """Encode an image as JPEG after adding noise (standard deviation in gray levels) or, below 0, a blur (in pixels)."""
    if noise_level > 0:
        noise = np.random.default_rng(seed).standard_normal(image.shape[:2], np.float32)
        image = np.clip(image + noise_level * noise[..., None], 0, 255).astype(np.uint8)
    elif noise_level < 0:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), -noise_level), np.uint8)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1].tobytes()
