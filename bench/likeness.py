"""Synthetic pictures that cost what real ones cost: of their size, showing people at their size, with as many bytes a pixel.

How long a JPEG takes to decode depends on its pixels and its bytes, not on what it shows. So drawn pictures are enlarged
where the real ones are larger, and get grain, or blur, until a byte count measured on real ones is met.
What may enter: making those pictures. What is measured on them is elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from hgfast.draw import read_image
from hgfast.errors import HgfastError
from hgfast.geometry import move, opencv_matrix
from pipelines.freihand import read_freihand
from pipelines.mpii import read_mpii
from pipelines.samples import Samples
from pipelines.synthetic import draw_freihand, draw_mpii

Pixels = NDArray[np.uint8]
Array = NDArray[np.float64]
Placed = tuple[str, Array, tuple[int, int]]
"""A drawn picture's path, its placement, and width and height of the picture it goes to."""


@dataclass(frozen=True)
class Likeness:
    """What real pictures are like.

    sizes: width, height in pixels, taken in turn. bytes_per_pixel: their mean. quality: of the JPEG in libjpeg's scale, from
    the real files' tables; chroma is 4:2:0, baseline. sides: of the squares to crop, source pixels, at `LEVELS`; None for
    whole pictures.
    """

    sizes: tuple[tuple[int, int], ...]
    bytes_per_pixel: float
    quality: int
    sides: tuple[float, ...] | None = None


LEVELS = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
FREIHAND = Likeness(((224, 224),), bytes_per_pixel=0.507, quality=95)
"""Eight pictures of FreiHAND_pub_v2, all four versions of two hands: 0.32 to 0.76 bytes a pixel, quality 95."""
MPII = Likeness(
    ((1280, 720), (1280, 720), (1280, 720), (1920, 1080)),
    bytes_per_pixel=0.105,
    quality=80,
    sides=(200.0, 286.0, 475.0, 689.0, 1012.0, 1715.0, 2400.0),
)
"""Four pictures of 1280 x 720 as mmpose passes them on for its tests: 0.092 to 0.116 bytes a pixel, quality 75 to 81. They
are progressive; these here are not, which decodes sooner. The originals must be heavier: the authors' archive has 12.9 GB
for some 25 000 pictures, 516 kB each, which is 0.43 bytes a pixel where one in four is 1920 x 1080. The sides' quantiles are
those of the 2958 people of valid.h5."""
LIKENESSES = {"freihand": FREIHAND, "mpii": MPII}
TOLERANCE = 0.1  # share by which the bytes a pixel may differ from the real ones
TRIED, PASSES = 12, 4  # pictures on which the grain is found, and how often at most
COARSEST, SMOOTHEST = 40.0, -4.0  # grain: its standard deviation in grey levels, or below zero a blur's in pixels


@dataclass(frozen=True)
class Weight:
    """Pictures on disk: mean bytes a pixel, and mean bytes and pixels of a picture."""

    bytes_per_pixel: float
    kilobytes: float
    megapixels: float


def weigh(paths: Sequence[str] | NDArray[np.str_]) -> Weight:
    """What pictures weigh, each once however often it is named."""
    sizes = []
    for path in sorted(set(map(str, paths))):
        with Image.open(path) as file:
            sizes.append((Path(path).stat().st_size, file.width * file.height))
    weights = np.array(sizes, np.float64)
    return Weight(float((weights[:, 0] / weights[:, 1]).mean()), weights[:, 0].mean() / 1e3, weights[:, 1].mean() / 1e6)


def make_pictures(layout: str, like: Likeness, folder: Path, count: int, workers: int, progress: bool = True) -> Samples:
    """About `count` samples of a layout, with a picture each, below `folder`; what was drawn there before is used again.

    Raises:
        HgfastError: the bytes a pixel cannot be met within `TOLERANCE`.
    """
    drawn = DRAWN[layout](folder / layout / f"drawn-{count}", count, workers, progress)
    drawn = evenly(drawn, count)
    sizes = [like.sizes[n % len(like.sizes)] for n in range(len(drawn))]
    matrices = placements(drawn, sizes, like)
    folder = folder / layout / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [str(folder / f"{n:06d}.jpg") for n in range(len(drawn))]
    contents = weighted([(str(path), m, size) for path, m, size in zip(drawn.paths, matrices, sizes)], like, workers, progress)
    for path, content in zip(paths, contents):
        write_new(Path(path), content)
    found = weigh(paths).bytes_per_pixel
    if abs(found / like.bytes_per_pixel - 1) > TOLERANCE:
        raise HgfastError(f"the {layout} pictures have {found:.3f} bytes a pixel, not {like.bytes_per_pixel}: draw others")
    return carried(drawn, matrices, np.array(paths))


def evenly(samples: Samples, count: int) -> Samples:
    """`count` samples spread over all, or all where there are fewer."""
    return samples.take(np.linspace(0, len(samples) - 1, min(count, len(samples))).astype(int))


def write_new(path: Path, content: bytes) -> None:
    """Write a file unless it holds just that: its date of change is part of a cached crop's name."""
    if not path.exists() or path.read_bytes() != content:
        path.write_bytes(content)


def weighted(placed: Sequence[Placed], like: Likeness, workers: int, progress: bool) -> list[bytes]:
    """JPEGs of drawn pictures that have the wanted bytes a pixel on the whole.

    The grain is found on a few of them; where all of them then miss the mark, the few are made to miss it the other way.
    """
    some = [enlarged(*placed[n]) for n in np.linspace(0, len(placed) - 1, min(TRIED, len(placed))).astype(int)]
    aim = like.bytes_per_pixel
    with ThreadPoolExecutor(workers) as pool:
        for _ in range(PASSES):
            grain = find_grain(some, replace(like, bytes_per_pixel=aim))
            work = pool.map(lambda n: encode(enlarged(*placed[n]), grain, like.quality, n), range(len(placed)))  # noqa: B023
            contents = list(tqdm(work, total=len(placed), unit="picture", disable=None if progress else True))
            found = np.mean([len(content) / (w * h) for content, (_, _, (w, h)) in zip(contents, placed)])
            if abs(found / like.bytes_per_pixel - 1) < TOLERANCE / 4:
                break
            aim *= like.bytes_per_pixel / float(found)
    return contents


def _hands(folder: Path, count: int, workers: int, progress: bool) -> Samples:
    if not (folder / "training_K.json").exists():
        draw_freihand(folder, -(-count // 4), seed=0, evaluation=0, workers=workers, overwrite=True, progress=progress)
    return read_freihand(folder, "all")


def _people(folder: Path, count: int, workers: int, progress: bool) -> Samples:
    if not (folder / "annot" / "train.h5").exists():
        draw_mpii(folder, count, seed=0, valid=1, workers=workers, overwrite=True, progress=progress)
    return read_mpii(folder, "train")


DRAWN = {"freihand": _hands, "mpii": _people}


def placements(samples: Samples, sizes: Sequence[tuple[int, int]], like: Likeness) -> Array:
    """(N, 3, 3) picture_from_drawn: the drawn picture itself, or so that its person is as large as real ones are, somewhere in
    the middle half of the picture."""
    matrices = np.tile(np.eye(3), (len(samples), 1, 1))
    if like.sides is None:
        return matrices
    rng = np.random.default_rng(0)
    zoom = np.interp(rng.random(len(samples)), LEVELS, like.sides) / samples.side
    middle = rng.uniform(0.25, 0.75, (len(samples), 2)) * np.array(sizes)
    matrices[:, [0, 1], [0, 1]] = zoom[:, None]
    matrices[:, :2, 2] = middle - zoom[:, None] * samples.centre
    return matrices


def carried(samples: Samples, matrices: Array, paths: NDArray[np.str_]) -> Samples:
    """The same samples in other pictures: points through `matrices` (N, 3, 3), lengths with their zoom."""
    zoom = matrices[:, 0, 0]
    return replace(
        samples,
        paths=paths,
        centre=move(samples.centre[:, None], matrices)[:, 0],
        side=samples.side * zoom,
        keypoints=move(samples.keypoints, matrices),
        reference=samples.reference * zoom,
        group=np.arange(len(samples)),
    )


def enlarged(path: str, matrix: Array, size: tuple[int, int]) -> Pixels:
    """A drawn picture through its placement, mirrored beyond its borders."""
    m = opencv_matrix(matrix)[:2]
    image = read_image(path)
    return np.asarray(cv2.warpAffine(image, m, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101), np.uint8)


def find_grain(pictures: Sequence[Pixels], like: Likeness) -> float:
    """The grain with which pictures have the wanted bytes a pixel, by bisection: the more grain, the more bytes."""
    smooth, coarse = SMOOTHEST, COARSEST
    for _ in range(9):
        grain = (smooth + coarse) / 2
        weights = [len(encode(p, grain, like.quality, n)) / (p.shape[0] * p.shape[1]) for n, p in enumerate(pictures)]
        smooth, coarse = (smooth, grain) if np.mean(weights) > like.bytes_per_pixel else (grain, coarse)
    return grain


def encode(picture: Pixels, grain: float, quality: int, seed: int) -> bytes:
    """A JPEG of a picture with grain of that standard deviation in grey levels or, below zero, a blur of so many pixels."""
    if grain > 0:
        noise = np.random.default_rng(seed).standard_normal(picture.shape[:2], np.float32)
        picture = np.clip(picture + grain * noise[..., None], 0, 255).astype(np.uint8)
    elif grain < 0:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), -grain), np.uint8)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)[1].tobytes()
