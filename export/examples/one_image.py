"""One picture: its keypoints as JSON on the screen, and the picture with the skeleton drawn.

    pip install . onnxruntime
    python export/examples/one_image.py best.fp32.onnx photo.jpg --box 120,40,300,420 --out drawn.jpg

The box is x, y, width, height of the person in pixels (--box=-5,0,50,50 where it begins with a minus); without one the whole
picture is looked at.
"""

import argparse
from pathlib import Path

from hgfast.draw import read_image, write_image
from hgfast.errors import run
from hgfast.files import check_apart
from hgfast.runtime import Session


def box(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("model", type=Path)
    words.add_argument("picture", type=Path)
    words.add_argument("--box", action="append", type=box, help="x,y,width,height; again for more people")
    words.add_argument("--out", type=Path, default=Path("drawn.jpg"))
    given = words.parse_args()

    check_apart([("the picture", given.picture)], {"--out": given.out})
    image = read_image(given.picture)  # RGB, turned as its EXIF orientation says
    with Session(given.model) as session:
        people = session(image, given.box, padding=1.25 if given.box else 1.0)  # a tight box wants some room around it

    print(people.to_json())
    write_image(given.out, people.draw(image))


if __name__ == "__main__":
    run(main)  # what is wrong with the model, the picture or a box is one sentence, and the exit code 2
