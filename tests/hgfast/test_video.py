"""Videos: times of the frames, rotation, broken ends, and what is written."""

import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from hgfast import predict as script
from hgfast.errors import HgfastError
from hgfast.fileio.video import VIDEO_SUFFIXES, VideoReader, VideoWriter
from hgfast.predict import main
from tests.hgfast.test_predict import checkpoint  # noqa: F401  (a fixture)

FRAMES = 12


def gray_film(path: Path, code: str = "mp4v", width: int = 96, height: int = 64) -> Path:
    """Write a film in which frame i has the brightness 20 i and a white left upper corner."""
    film = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 10.0, (width, height))
    for index in range(FRAMES):
        frame = np.full((height, width, 3), 20 * index, np.uint8)
        frame[: height // 2, : width // 2] = 255
        film.write(frame)
    film.release()
    return path


def set_durations(path: Path, seconds: list[float]) -> None:
    """Give the frames of an MP4 file other durations: a new stts table replaces the old one.

    moov is the last box, so only the sizes of the boxes around stts change, and no offsets.
    """
    data = bytearray(path.read_bytes())
    stts = data.index(b"stts") - 4
    scale = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)[0]
    entries = b"".join(struct.pack(">II", 1, round(step * scale)) for step in seconds)
    table = struct.pack(">I4sII", 16 + len(entries), b"stts", 0, len(seconds)) + entries
    old_size = struct.unpack_from(">I", data, stts)[0]
    assert data.index(b"moov") > data.index(b"mdat")
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        start = data.index(name) - 4
        struct.pack_into(">I", data, start, struct.unpack_from(">I", data, start)[0] + len(table) - old_size)
    data[stts : stts + old_size] = table
    elst = data.find(b"edts")  # its duration would cut the film
    if elst >= 0:
        data[elst : elst + 4] = b"free"
    path.write_bytes(data)


def rotate(path: Path) -> None:
    """Set the rotation matrix of the track header to 90 degrees clockwise."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    assert struct.unpack_from(">I", data, matrix)[0] == 0x10000
    struct.pack_into(">9i", data, matrix, 0, 0x10000, 0, -0x10000, 0, 0, 64 << 16, 0, 0x40000000)
    path.write_bytes(data)


def test_frames_have_their_own_times(tmp_path: Path) -> None:
    film = gray_film(tmp_path / "film.mp4")
    steps = [0.1] * 3 + [2.0] + [0.1] * 3 + [1.5] + [0.1] * 4
    set_durations(film, steps)
    video = VideoReader(film)
    times = [video.time_s for _ in video]
    assert times == pytest.approx(np.cumsum([0.0, *steps[:-1]]), abs=2e-3)
    assert not video.missing_end


def test_a_written_film_keeps_variable_times(tmp_path: Path) -> None:
    film = gray_film(tmp_path / "film.mp4")
    steps = [0.1] * 3 + [2.0] + [0.1] * 8
    set_durations(film, steps)
    video = VideoReader(film)
    rate = video.writing_rate()
    assert rate == pytest.approx(10, abs=0.1)
    with VideoWriter(tmp_path / "out.webm", rate) as out:
        for frame in video:
            out.write(frame, video.time_s)
    drawn = VideoReader(tmp_path / "out.webm")
    brightness = {round(drawn.time_s, 3): float(frame[-8:, -8:].mean()) for frame in drawn}
    for index, time in enumerate(np.cumsum([0.0, *steps[:-1]])):
        nearest = min(brightness, key=lambda t: abs(t - time))
        assert abs(nearest - time) < 0.5 / rate + 2e-3
        assert brightness[nearest] == pytest.approx(20 * index, abs=8)


def test_a_constant_rate_is_kept(tmp_path: Path) -> None:
    film = gray_film(tmp_path / "film.avi", "MJPG")
    video = VideoReader(film)
    assert video.writing_rate() == video.fps == 10
    with VideoWriter(tmp_path / "out.webm", 10) as out:
        for frame in video:
            out.write(frame, video.time_s)
    drawn = VideoReader(tmp_path / "out.webm")
    assert len(list(drawn)) == FRAMES and drawn.codec == "VP80"


def test_rotation_is_applied_and_written(tmp_path: Path) -> None:
    film = gray_film(tmp_path / "film.mp4")
    rotate(film)
    frame = next(iter(VideoReader(film)))
    assert frame.shape == (96, 64, 3)
    assert frame[10, -10].mean() > 200 > 100 > frame[10, 10].mean()  # the left upper corner is now the right upper one
    with VideoWriter(tmp_path / "out.webm", 10) as out:
        out.write(frame)
    written = next(iter(VideoReader(tmp_path / "out.webm")))
    assert written.shape == (96, 64, 3) and written[10, -10].mean() > 200 > 100 > written[10, 10].mean()


def test_a_broken_end_keeps_its_frames(
    checkpoint: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    film = gray_film(tmp_path / "film.avi", "MJPG")
    data = film.read_bytes()
    film.write_bytes(data[: data.index(b"movi") + (data.index(b"idx1") - data.index(b"movi")) // 2])
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["predict.py", str(checkpoint), str(film), "--out", str(out)])
    with pytest.raises(HgfastError, match="1 of 1 videos are incomplete"):
        main()
    count = len((out / "film.jsonl").read_text().splitlines())
    assert 0 < count < FRAMES and (out / "film.webm").is_file() and (out / "keypoints.json").is_file()
    assert f"{count} of the {FRAMES} frames" in capsys.readouterr().err


def test_a_film_that_cannot_be_decoded_names_its_codec(
    checkpoint: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    film = gray_film(tmp_path / "film.avi", "MJPG")
    monkeypatch.setattr(VideoReader, "__iter__", lambda _: iter(()))  # OpenCV opens AV1, and decodes no frame of it
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["predict.py", str(checkpoint), str(film), "--out", str(out)])
    with pytest.raises(HgfastError, match="1 of 1 images failed"):
        main()
    assert "can decode (codec MJPG): convert it" in capsys.readouterr().err
    assert not (out / "film.jsonl").exists()


def test_suffixes_of_any_case_are_found_in_folders(tmp_path: Path) -> None:
    names = [f"{index}{suffix.upper()}" for index, suffix in enumerate(VIDEO_SUFFIXES)]
    for name in names:
        (tmp_path / name).touch()
    assert {file.name for file in script.list_files([tmp_path], tmp_path / "out")[0]} == set(names)


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HgfastError, match=r"browsers play \.webm"):
        VideoWriter(tmp_path / "film.mp4", 10)
