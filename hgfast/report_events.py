"""What TensorBoard's events of a run still tell afterwards: when it ran, and the last of each of its pictures.

What may enter: reading the files that `hgfast.logbook` has written. Its figures are read from metrics.jsonl.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from hgfast.errors import HgfastError

PATTERN = "events.out.tfevents.*"


@dataclass
class Events:
    """began, ended: seconds since 1970 of the first and the last record, None without any. pictures: by tag, the step and the
    encoded picture of the last one."""

    began: float | None = None
    ended: float | None = None
    pictures: dict[str, tuple[int, bytes]] = field(default_factory=dict)


def read_events(folder: Path) -> Events:
    """What the events of a run's folder tell. What follows a record that was cut short, in its file, is left out.

    Raises:
        HgfastError: files that cannot be read, or whose records are no events.
    """
    found, paths = Events(), sorted((folder / "events").glob(PATTERN))
    if not paths:
        return found
    try:
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
        from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader  # type: ignore[import-untyped]
        from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
    except ImportError as error:
        raise HgfastError("the events of a run are read with the package tensorboard: pip install tensorboard") from error
    for path in paths:
        try:
            for raw in RawEventFileLoader(str(path)).Load():
                event = Event.FromString(raw)
                found.began = event.wall_time if found.began is None else found.began
                found.ended = event.wall_time
                for value in event.summary.value:
                    if value.HasField("image"):
                        found.pictures[value.tag] = (event.step, value.image.encoded_image_string)
        except (OSError, DecodeError) as error:
            raise HgfastError(f"{path} cannot be read as events ({str(error)[:120]}): remove it") from error
    return found
