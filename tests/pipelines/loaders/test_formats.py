"""Every image format that hgfast reads: DALI and OpenCV see the same image, or the file is refused by name before its decoding.

`python -m tests.pipelines.loaders.test_formats [FILE...]` prints the table of docs/data.md, or the files that are named.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from hgfast.errors import HgfastError
from hgfast.fileio.image_format import exif_orientation, needs_whole_file
from hgfast.pipelines.checks.images import dark_images, decode_with_dali, decode_with_opencv
from hgfast.pipelines.loaders.dali import describe_decode_error, file_problem
from hgfast.visualization.draw import read_image
from tests.odd_images import exif, jpeg_with_scans, rotated_jpeg, scene

Pixels = NDArray[np.uint8]


def write_formats(folder: Path) -> list[Path]:
    """Write the same scene in many formats."""
    rgb = scene()
    bgr, gray, deep = rgb[..., ::-1], np.ascontiguousarray(rgb[..., 1]), rgb[..., ::-1].astype(np.uint16) * 257
    alpha = np.tile(np.linspace(0, 255, rgb.shape[1]).astype(np.uint8), (rgb.shape[0], 1))
    pil, rgba = Image.fromarray(rgb), Image.fromarray(np.dstack([rgb, alpha]))
    turned = Image.Exif()
    turned[0x0112] = 6
    images: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "JPEG 4:4:4.jpg": (pil, {"quality": 95, "subsampling": 0}),
        "JPEG 4:2:0.jpg": (pil, {"quality": 90}),
        "JPEG progressive.jpg": (pil, {"progressive": True}),
        "JPEG gray.jpg": (pil.convert("L"), {}),
        "JPEG CMYK.jpg": (pil.convert("CMYK"), {}),
        "MPO.mpo": (pil, {"save_all": True, "append_images": [pil.rotate(180)]}),
        "PNG.png": (pil, {}),
        "PNG gray.png": (pil.convert("L"), {}),
        "PNG gray, alpha.png": (pil.convert("LA"), {}),
        "PNG alpha.png": (rgba, {}),
        "PNG palette.png": (pil.convert("P"), {}),
        "PNG palette, alpha.png": (rgba.quantize(), {}),
        "PNG 1 bit.png": (pil.convert("1"), {}),
        "PNG transparent color.png": (pil, {"transparency": (30, 30, 30)}),
        "PNG EXIF.png": (pil, {"exif": turned}),
        "WebP.webp": (pil, {"quality": 90}),
        "WebP lossless.webp": (pil, {"lossless": True}),
        "WebP alpha.webp": (rgba, {"lossless": True}),
        "WebP EXIF.webp": (pil, {"lossless": True, "exif": turned}),
        "BMP.bmp": (pil, {}),
        "BMP palette.bmp": (pil.convert("P"), {}),
        "BMP alpha.bmp": (rgba, {}),
        "TIFF.tif": (pil, {}),
        "TIFF LZW.tif": (pil, {"compression": "tiff_lzw"}),
        "TIFF JPEG.tif": (pil, {"compression": "jpeg"}),
        "TIFF gray.tif": (pil.convert("L"), {}),
        "TIFF palette.tif": (pil.convert("P"), {}),
        "TIFF CMYK.tif": (pil.convert("CMYK"), {}),
        "TIFF 1 bit.tif": (pil.convert("1"), {}),
        "TIFF EXIF.tif": (pil, {"exif": turned}),
        "TIFF alpha.tif": (rgba, {}),
        "JPEG 2000.jp2": (pil, {}),
        "JPEG 2000 alpha.jp2": (rgba, {}),
        "PPM.ppm": (pil, {}),
        "PGM.pgm": (pil.convert("L"), {}),
        "PBM.pbm": (pil.convert("1"), {}),
        "GIF.gif": (pil, {}),
        "AVIF.avif": (pil, {}),
        "AVIF EXIF.avif": (pil, {"exif": turned}),
        "ICO.ico": (pil, {}),
    }
    for name, (image, options) in images.items():
        image.save(folder / name, **options)
    arrays: dict[str, NDArray[Any]] = {
        "PNG 16 bits.png": deep,
        "PNG 16 bits, gray.png": gray.astype(np.uint16) * 257,
        "PNG 12 bits in 16.png": gray.astype(np.uint16) * 16,
        "TIFF 16 bits.tif": deep,
        "TIFF float.tif": bgr.astype(np.float32),
        "PPM 16 bits.ppm": deep,
        "JPEG 2000 16 bits.jp2": deep,
        "Radiance.hdr": bgr.astype(np.float32) / 255,
    }
    for name, array in arrays.items():
        cv2.imwrite(str(folder / name), array)
    for orientation in range(1, 9):
        (folder / f"JPEG EXIF {orientation}.jpg").write_bytes(rotated_jpeg(rgb, orientation))
    jpeg, cmyk = (folder / "JPEG 4:4:4.jpg").read_bytes(), (folder / "JPEG CMYK.jpg").read_bytes()
    adobe = cmyk.index(b"\xff\xee")
    rewritten = {
        "JPEG CMYK without marker.jpg": cmyk[:adobe] + cmyk[adobe + 2 + int.from_bytes(cmyk[adobe + 2 : adobe + 4], "big") :],
        "JPEG two EXIF.jpg": jpeg[:2] + exif(6) + exif(1) + jpeg[2:],
        "JPEG two equal EXIF.jpg": jpeg[:2] + exif(6) + exif(6) + jpeg[2:],
        "JPEG without its end.jpg": jpeg[:-2],
        "JPEG half.jpg": jpeg[: len(jpeg) // 2],
        "JPEG with bytes behind.jpg": jpeg + b"behind",
        "PNG cut.png": (folder / "PNG.png").read_bytes()[:-12],
        "JPEG called png.png": jpeg,
    }
    for name, content in rewritten.items():
        (folder / name).write_bytes(content)
    return sorted(folder.iterdir())


def read_with_dali(path: str) -> Pixels:
    """Decode with a pipeline of one image. Raises `HgfastError` as the loader would."""
    from nvidia import dali

    if problem := file_problem(path):
        raise HgfastError(problem)

    @dali.pipeline_def(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1, exec_dynamic=True)  # type: ignore[untyped-decorator]
    def graph() -> Any:
        files = dali.fn.io.file.read(dali.fn.external_source(name="path", dtype=dali.types.UINT8, ndim=1))
        return dali.fn.decoders.image(files, device="cpu", output_type=dali.types.RGB, jpeg_fancy_upsampling=True)

    try:
        (images,) = graph().run(path=[np.frombuffer(os.fsencode(path), np.uint8)])
        return np.array(images.at(0))
    except RuntimeError:
        raise HgfastError(describe_decode_error(path)) from None


def outcome(read: Callable[[str], Pixels], path: Path) -> Pixels | str:
    try:
        return read(str(path))
    except HgfastError as error:
        assert str(path) in str(error)
        return str(error).replace(f"{path} ", "")


@pytest.fixture(scope="module")
def formats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("formats")
    write_formats(folder)
    return folder


REFUSED_BY_BOTH = {
    "ICO.ico": "is a ICO file, which is not supported",
    "JPEG CMYK without marker.jpg": "is a CMYK JPEG without an Adobe marker",
    "JPEG two EXIF.jpg": "has two EXIF orientations",
    "JPEG without its end.jpg": "is a JPEG that is cut off",
    "JPEG half.jpg": "is a JPEG that is cut off",
    "PNG cut.png": "is a broken PNG image",
    "TIFF alpha.tif": "is a TIFF image with transparency",
}
REFUSED_BY_DALI = {
    "AVIF.avif": "is an AVIF image, which DALI cannot decode",
    "AVIF EXIF.avif": "is an AVIF image, which DALI cannot decode",
    "GIF.gif": "is a GIF image, which DALI cannot decode",
    "Radiance.hdr": "cannot be decoded by DALI, but by OpenCV",
    "TIFF 1 bit.tif": "cannot be decoded by DALI, but by OpenCV",
    "TIFF float.tif": "is a TIFF image with floating-point samples",
    "WebP EXIF.webp": "cannot be decoded by DALI, but by OpenCV",
}


@pytest.mark.dali
def test_dali_and_opencv_see_the_same_image(formats: Path) -> None:
    for path in sorted(formats.iterdir()):
        dali, opencv = outcome(read_with_dali, path), outcome(read_image, path)
        if path.name in REFUSED_BY_BOTH:
            sentence = REFUSED_BY_BOTH[path.name]
            assert isinstance(dali, str) and isinstance(opencv, str) and dali == opencv and sentence in dali, path.name
        elif path.name in REFUSED_BY_DALI:
            assert isinstance(dali, str) and REFUSED_BY_DALI[path.name] in dali and "--loader opencv" in dali, path.name
            assert isinstance(opencv, np.ndarray), path.name
        else:
            assert isinstance(dali, np.ndarray) and isinstance(opencv, np.ndarray), (path.name, dali, opencv)
            assert dali.shape == opencv.shape and np.abs(dali.astype(int) - opencv).max() <= 1, path.name


@pytest.mark.dali
def test_the_check_says_the_same_as_the_loaders(formats: Path) -> None:
    paths = [str(path) for path in sorted(formats.iterdir())]
    by_opencv = {Path(path).name: outcome for path, outcome in decode_with_opencv(paths, 1)}
    by_dali = {Path(path).name: outcome for path, outcome in decode_with_dali(paths, 1)}
    assert {name for name, found in by_opencv.items() if isinstance(found, str)} == REFUSED_BY_BOTH.keys()
    assert {name for name, found in by_dali.items() if isinstance(found, str)} == {*REFUSED_BY_BOTH, *REFUSED_BY_DALI}
    assert [Path(path).name for path in dark_images(paths)] == ["PNG 12 bits in 16.png"]


def test_orientations_are_those_that_pillow_reads(formats: Path) -> None:
    for path in sorted(formats.iterdir()):
        if path.suffix in (".jpg", ".png", ".webp", ".tif") and path.name not in {*REFUSED_BY_BOTH, "TIFF float.tif"}:
            with Image.open(path) as image:
                assert exif_orientation(memoryview(path.read_bytes())) == image.getexif().get(0x0112, 1), path.name


def test_rotated_avif_is_upright(formats: Path) -> None:
    flat = read_image(formats / "AVIF.avif")
    turned = read_image(formats / "AVIF EXIF.avif")
    assert np.abs(turned.astype(int) - np.rot90(flat, -1)).max() < 30


def test_heic(tmp_path: Path) -> None:
    """The brand tells HEIC whatever the suffix; a broken one is named."""
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
    with pytest.raises(HgfastError, match=r"a\.jpg is an image in HEIC that Pillow cannot read|a\.jpg cannot be decoded"):
        read_image(tmp_path / "a.jpg")
    assert "is a HEIC image, which DALI cannot decode" in file_problem(str(tmp_path / "a.jpg"))


def test_without_pi_heif_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
    with pytest.raises(HgfastError, match=r"is an image in HEIC: pip install 'hgfast\[images\]' to read it, or save it as PNG"):
        read_image(tmp_path / "a.heic")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        print("| image | largest difference | mean | DALI | OpenCV |\n| --- | ---: | ---: | --- | --- |")
        for path in [Path(name) for name in sys.argv[1:]] or write_formats(Path(folder)):
            images = outcome(read_with_dali, path), outcome(read_image, path)
            words = ["reads it" if isinstance(image, np.ndarray) else image for image in images]
            numbers = " | "
            dali, opencv = images
            if isinstance(dali, np.ndarray) and isinstance(opencv, np.ndarray):
                difference = np.abs(dali.astype(int) - opencv) if dali.shape == opencv.shape else np.array(np.inf)
                numbers = f"{difference.max():g} | {difference.mean():.2f}"
            print(f"| {path.name} | {numbers} | {words[0]} | {words[1]} |")


if __name__ == "__main__":
    main()


@pytest.mark.parametrize(("count", "is_refused"), [(100, False), (101, True), (5000, True)])
def test_jpeg_of_many_scans_is_refused_before_it_is_decoded(tmp_path: Path, count: int, is_refused: bool) -> None:
    """Every scan is decoded over the whole image: a small file can take hours."""
    path = tmp_path / "scans.jpg"
    path.write_bytes(jpeg_with_scans(count, 1024))
    expected = f"{path} is a JPEG of {count} scans, more than the 100 that are decoded: save it anew" if is_refused else ""
    assert file_problem(str(path)) == expected
    if is_refused:
        with pytest.raises(HgfastError) as error:
            read_image(path)
        assert str(error.value) == expected
    else:
        assert read_image(path).shape == (1024, 1024, 3)


def test_only_scans_are_counted(tmp_path: Path) -> None:
    """A phone appends a video to the image, and a comment may hold an end marker."""
    path = tmp_path / "scans.jpg"
    path.write_bytes(jpeg_with_scans(5, 1024) + b"\xff\xda" * 200)
    assert file_problem(str(path)) == ""
    many = jpeg_with_scans(101, 1024)
    first = many.index(b"\xff\xda")
    path.write_bytes(many[:first] + b"\xff\xfe\x00\x06\xff\xd9\xff\xda" + many[first:])
    assert "is a JPEG of 101 scans" in file_problem(str(path))


def test_whole_file_is_read_only_if_a_jpeg_may_have_several_scans() -> None:
    jpeg, progressive = (cv2.imencode(".jpg", scene(), flags)[1].tobytes() for flags in ([], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]))
    assert not needs_whole_file(memoryview(jpeg)[:2000]) and needs_whole_file(memoryview(progressive)[:2000])
    assert needs_whole_file(memoryview(jpeg)[:100])  # the frame header follows
    two_components = jpeg.replace(b"\xff\xda\x00\x0c\x03", b"\xff\xda\x00\x0c\x02")
    assert needs_whole_file(memoryview(two_components))
