"""One image: print its keypoints as JSON and write the image with the skeleton drawn.

    pip install hgfast onnxruntime
    python export/examples/one_image.py best.fp32.onnx photo.jpg --box 120,40,300,420 --out drawn.jpg

The box is x, y, width, height of the person in pixels (--box=-5,0,50,50 if it begins with a minus). Without a box, the network
sees the whole image.
"""

import argparse
from pathlib import Path

from hgfast.entry_point import run_main
from hgfast.fileio.files import check_distinct_paths
from hgfast.runtime import Session
from hgfast.visualization.draw import read_image, write_image


def parse_box(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--box", action="append", type=parse_box, help="x,y,width,height; repeat it for more people")
    parser.add_argument("--out", type=Path, default=Path("drawn.jpg"))
    args = parser.parse_args()

    check_distinct_paths([("the image", args.image)], {"--out": args.out})
    image = read_image(args.image)  # RGB, rotated by its EXIF orientation
    with Session(args.model) as session:
        people = session(image, args.box, padding=1.25 if args.box else 1.0)  # a tight box needs a margin

    print(people.to_json())
    write_image(args.out, people.draw(image))


if __name__ == "__main__":
    run_main(main)  # invalid input: one sentence and exit code 2
