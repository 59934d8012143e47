"""Read the TensorBoard events of a run: when it ran, and the last image of each tag.

Metrics are read from metrics.jsonl instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from hgfast.errors import HgfastError

EVENT_FILES = "events.out.tfevents.*"


@dataclass
class TensorBoardEvents:
    """Start, end and images of a run.

    first_time, last_time: of the first and the last record, in seconds since 1970; None without records. images: step and encoded
    bytes of the last image by tag.
    """

    first_time: float | None = None
    last_time: float | None = None
    images: dict[str, tuple[int, bytes]] = field(default_factory=dict)


def read_events(folder: Path) -> TensorBoardEvents:
    """Read the events in a run's folder. Records after a truncated one in the same file are omitted.

    Raises:
        HgfastError: a file cannot be read, or its records are not events.
    """
    events, paths = TensorBoardEvents(), sorted((folder / "events").glob(EVENT_FILES))
    if not paths:
        return events
    try:
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
        from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader  # type: ignore[import-untyped]
        from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
    except ImportError as error:
        raise HgfastError("reading the events of a run requires tensorboard: pip install tensorboard") from error
    for path in paths:
        try:
            for raw in RawEventFileLoader(str(path)).Load():
                event = Event.FromString(raw)
                events.first_time = event.wall_time if events.first_time is None else events.first_time
                events.last_time = event.wall_time
                for value in event.summary.value:
                    if value.HasField("image"):
                        events.images[value.tag] = (event.step, value.image.encoded_image_string)
        except (OSError, DecodeError) as error:
            raise HgfastError(f"{path} cannot be read as events ({str(error)[:120]}): remove it") from error
    return events
