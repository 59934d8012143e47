"""Join the pieces of the kit that `bench/gpu_kit.py` made into a folder of wheels. Needs the standard library alone.

    python3 kit_join.py KIT GROUP WHEELS

KIT has a folder for each call, with pieces and a copy of this script and of manifest.json. Exit code 2 if a piece of the group is
missing or damaged.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path


def join(kit: Path, group: str, wheels: Path) -> list[str]:
    """Write the wheels of a group to the folder `wheels` and return their names.

    Raises:
        ValueError: a piece is missing or damaged.
    """
    manifest = json.loads(next(iter(sorted(kit.rglob("manifest.json")))).read_text("utf-8"))
    content = bytearray()
    for name, digest in manifest["groups"][group].items():
        piece = next(iter(kit.rglob(name)), None)
        if piece is None:
            raise ValueError(f"{name} is not in {kit}: bring it, with its folder")
        data = piece.read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            raise ValueError(f"{piece} is damaged: bring it again")
        content += data
    wheels.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            (wheels / Path(member.name).name).write_bytes(file.read())
        return archive.getnames()


def main() -> None:
    kit, group, wheels = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    try:
        names = join(kit, group, wheels)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(f"{group}: {len(names)} wheels in {wheels}")


if __name__ == "__main__":
    main()
