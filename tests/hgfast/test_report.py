"""Reports of real runs, parsed as HTML; missing, broken and malicious files."""

from __future__ import annotations

import base64
import html
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from hgfast import checkpoints, report
from hgfast.cli import parse
from hgfast.config import FLAG_ALIASES, Config
from hgfast.errors import HgfastError
from hgfast.reporting import media
from hgfast.reporting.media import JPEG_QUALITY, find_galleries
from hgfast.reporting.page import MAX_LISTED, list_files
from hgfast.reporting.records import bench_table, format_number, joint_table, skipped_reasons, table
from hgfast.reporting.run_folder import read_events, read_run
from hgfast.runtime import sidecar
from hgfast.system_info import available_cores, cpu_features
from hgfast.training.run_logger import RunLogger
from hgfast.visualization.draw import read_image
from hgfast.visualization.gallery import TILE_SIZE
from tests.conftest import ROOT, Command, ErrorOf

VOID = {"meta", "img", "br", "hr", "link", "input"}
MALICIOUS = '<script>alert("1")</script>'
LATENCY = ROOT / "bench/results/latency-lspet-hg2-2-cores.json"


class Page(HTMLParser):
    """A parsed page: elements with their attributes, the text of cells, all text."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding="ascii")
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.cells: list[str] = []
        self.text = ""
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), tag
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID or "svg" in self.open, f"<{tag}/> is only valid in SVG"
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data
        if "style" not in self.open:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]


def check_self_contained(page: Page) -> None:
    """No attribute or style refers to anything outside the page, no script runs, and internal references resolve."""
    ids = page.ids()
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form", "video", "audio")
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "srcset", "poster", "data", "action", "xlink:href"):
                assert value.startswith(("data:image/", "#")), (tag, name, value[:80])
                assert not value.startswith("#") or value[1:] in ids, value
            for target in re.findall(r"url\(([^)]*)\)", value):
                assert target[0] == "#" and target[1:] in ids, target
    style = re.search(r"<style>(.*?)</style>", page.source, re.DOTALL)
    assert style is not None and "url(" not in style[1] and "@import" not in style[1] and "//" not in style[1]
    policy = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy and "default-src 'none'" in policy[0]


def check_accessible(page: Page) -> None:
    """The page works on a phone, in dark mode, on paper and with a screen reader."""
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert "prefers-color-scheme: dark" in page.source and "@media print" in page.source
    assert all(image["alt"] for image in page.all("img"))
    assert page.all("html") == [{"lang": "en"}]
    for before, after in zip(page.elements, page.elements[1:]):
        if after[0] == "table":
            assert before == ("div", before[1]) and "scroll" in before[1]["class"], "each table scrolls in its own container"


def parse_page(path: Path) -> Page:
    page = Page(path)
    check_self_contained(page)
    check_accessible(page)
    return page


def write(folder: Path, *flags: object) -> Page:
    """Write the report of a run's folder with command-line flags and parse it."""
    words = [str(folder), *map(str, flags)]
    config = report.parse(report.ReportConfig, words, positional="folder")
    return parse_page(report.write_report(config, report.explicit_flags(words)))


@pytest.fixture(scope="module", autouse=True)
def draw_equal_curves_once() -> Iterator[None]:
    """Most reports here are of the same run, whose curves take most of the time."""
    known: dict[str, Any] = {}

    def remember(lines: Sequence[dict[str, Any]]) -> Any:
        if repr(lines) not in known:
            known[repr(lines)] = media.training_curves(lines)
        return known[repr(lines)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hgfast.reporting.page.training_curves", remember)
        yield


@pytest.fixture(scope="module")
def trained(hands: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of three epochs, validated after the second and the third."""
    from hgfast.training import distributed
    from hgfast.training.run import train
    from tests.hgfast.test_train import small_config

    config = small_config(hands, tmp_path_factory.mktemp("exp"), epochs=3)
    config.train.val_interval = 2
    config.train.ema = 0.0
    return train(config, distributed.Ranks.single(distributed.select_device("cpu")))


@pytest.fixture
def ran(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "small"))


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def export(folder: Path, checkpoint: Path, name: str = "best.int8.onnx", **changed: Any) -> Path:
    """Write a fake exported network with a valid sidecar."""
    model = checkpoints.load_model(checkpoint)
    artifact = folder / name
    artifact.write_bytes(b"a network" * 1000)
    size, count = model.meta.input_size, len(model.meta.skeleton.joints)
    described = sidecar.Sidecar(
        artifact=name,
        sha256=sidecar.sha256_of(artifact),
        export_format="onnx",
        precision="int8",
        skeleton=model.meta.skeleton,
        input=sidecar.TensorSpec("images", "uint8", (1, size, size, 3), "NHWC"),
        outputs=(sidecar.TensorSpec("keypoints", "float32", (1, count, 3), "image, joint, (x, y, score)"),),
        input_size=size,
        normalized=False,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        batch=sidecar.BatchRange(1, 1, 1),
        stride=4,
        heatmap_kind="logits",
        decoder="dark",
        flip_test=False,
        pixel_offset=0.0,
        result_offset=0.0,
        checkpoint=checkpoint.name,
        checkpoint_sha256=sidecar.sha256_of(checkpoint),
        versions={"python": "3.12"},
        revision="abc",
        created="2026-01-02T00:00:00+00:00",
        verification={"rows": [{"max_px": 0.625, "verdict": "ok"}, {"max_px": 7.125, "verdict": "ok"}], "accuracy": None},
    )
    sidecar.write(replace(described, **changed), artifact)
    return artifact


# ---- a whole run ----


@pytest.mark.slow
def test_a_run_with_everything(hands: Path, trained: Path, tmp_path: Path, command: Command) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "small"))
    export(folder, folder / "best.pt")
    done = command(
        "hgfast/report.py", folder, "--evaluate", "--loader", "opencv", "--threads", 1, "--records", f"[{LATENCY}]",
        "--out", tmp_path / "elsewhere/page.html",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "elsewhere/page.html") in done.stdout
    page = parse_page(tmp_path / "elsewhere/page.html")

    best = checkpoints.read(folder / "best.pt")
    network = checkpoints.load_model(folder / "best.pt")
    facts = {name.strip(): value.strip() for name, value in re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page.source)}
    assert (facts["data set"], facts["network"]) == ("freihand", "tiny")
    assert facts["parameters"] == f"{sum(p.numel() for p in network.parameters()) / 1e6:.2f} million"
    assert facts["revision"] == best["revision"] and facts["machine"].endswith(f"{available_cores()} cores, {cpu_features().isa}")
    assert facts["done"] == f"3 epochs, {lines(folder)[-1]['step']} steps"
    first = re.search(r'class="headlines">\s*<div class="best"><dt>(.*?)</dt><dd>(.*?)</dd>', page.source)
    assert first is not None and first.groups() == ("AUC, 0 to 30 px", format_number(best["metrics"]["auc_0_30px"]))
    assert f"after epoch {best['epoch']}" in page.text

    titles = re.findall(r"<figcaption>(.*?)</figcaption>", page.source)
    assert titles[0] == "Loss" and {"Learning rate", "Images a second", "Waiting for data"} <= set(titles)
    assert {"Accuracy on the validation split", "Errors on the validation split"} <= set(titles)
    assert len(page.all("svg")) == len(titles)

    result = json.loads((folder / "evaluation/metrics.json").read_text())
    assert (result["dataset"], result["split"], result["data"]) == ("freihand", "test", str(hands))
    for name, value in result["rows"][0].items():
        assert name == "method" or format_number(value) in page.cells, name
    for row in result["joints"]:
        assert row["joint"] in page.cells and format_number(row["epe_px"]) in page.cells
    bars = [float(found) for found in re.findall(r'<i style="width: ([\d.]+)%">', page.source)]
    assert bars == [pytest.approx(100 * row["pck@0.2"], abs=0.06) for row in result["joints"]]

    sheets = {name: read_image(folder / "evaluation" / name) for name in ("sheet.jpg", "worst.jpg")}
    tiles = result["samples"] + result["samples"] // len(result["versions"])  # every sample, and the worst of each hand
    pairs = [image for image in page.all("img") if (image["width"], image["height"]) == (str(2 * TILE_SIZE), str(TILE_SIZE))]
    assert len(pairs) == tiles
    first_pair = cv2.imdecode(np.frombuffer(base64.b64decode(pairs[0]["src"].partition(",")[2]), np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(first_pair[..., ::-1].astype(int) - sheets["sheet.jpg"][:TILE_SIZE, : 2 * TILE_SIZE]).mean() < 4

    assert {"best.int8.onnx", "int8", "7.125", "this checkpoint", "9 kB"} <= set(page.cells)
    record = json.loads(LATENCY.read_text())
    for row in record["rows"]:
        if row["median_ms"] is not None:
            assert format_number(row["median_ms"]) in page.cells
    assert "Not measured, no NVIDIA GPU here: tensorrt fp32" in page.text
    assert "names exp/lspet-hg2/best.pt, not a checkpoint of this run" in page.text
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names <= set(page.cells)
    assert (folder / "config.yaml").read_text() in page.text
    assert "hgfast report" not in page.text, "nothing is missing"


def test_minimal_run_suggests_commands(ran: Path) -> None:
    page = write(ran)
    assert (ran / "report.html").is_file()
    checkpoint = ran / "best.pt"
    commands = (f"hgfast report {ran} --evaluate", f"export onnx {checkpoint}", f"bench latency --checkpoint {checkpoint}")
    for text in commands:
        assert text in page.text
    assert "Predictions during training" in page.text
    images = page.all("img")
    assert [image for image in images if (image["width"], image["height"]) == (str(TILE_SIZE), str(TILE_SIZE))]
    assert "report.html" not in page.cells, "the page does not list itself"
    assert parse_page(ran / "report.html").cells == write(ran).cells, "the next page does not list the previous one"


def test_retrain_command_uses_another_folder(ran: Path) -> None:
    (command,) = re.findall(r"To train again with this configuration: <code>(.*?)</code>", write(ran).source)
    again = parse(Config, shlex.split(html.unescape(command))[2:], flag_aliases=FLAG_ALIASES)
    before = parse(Config, ["--config", str(ran / "config.yaml")])
    assert replace(again, exp=before.exp) == before and again.exp == f"{before.exp}-again"


def test_tiles_match_tensorboard(ran: Path) -> None:
    step, encoded = read_events(ran).images["valid/grid"]
    grid = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    assert step == lines(ran)[-1]["step"]
    shown = [image["src"] for image in write(ran).all("img") if image["width"] == str(TILE_SIZE)]
    assert len(shown) == 24, "truth, prediction and heatmaps of eight samples"
    for place in (0, 7, 23):
        top, left = place // 6 * TILE_SIZE, place % 6 * TILE_SIZE
        tile = cv2.imdecode(np.frombuffer(base64.b64decode(shown[place].partition(",")[2]), np.uint8), cv2.IMREAD_COLOR)
        encoded = cv2.imencode(
            ".jpg", grid[top : top + TILE_SIZE, left : left + TILE_SIZE], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        )[1]
        assert np.array_equal(tile, cv2.imdecode(encoded, cv2.IMREAD_COLOR))


def test_training_time_is_computed_from_steps(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("batch_size: 10\n")
    speeds = [(100, 50.0), (200, 25.0), (250, 500.0)]  # 20 s, 40 s, 1 s
    written = [{"epoch": n, "step": step, "images_per_s": speed} for n, (step, speed) in enumerate(speeds, 1)]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in written))
    assert read_run(tmp_path).training_seconds == pytest.approx(61)
    assert "61 s, without validation" in write(tmp_path).text
    (tmp_path / "config.yaml").unlink()
    assert read_run(tmp_path).training_seconds is None


def test_curves_match_metrics(tmp_path: Path) -> None:
    """A curve has a point for each number and gaps elsewhere; its alternative text names the axes."""
    figures = [{"ankle": 20.0, "pckh@0.5": 30.0}, None, {"ankle": 40.0, "pckh@0.5": None}, {"ankle": 80.0, "pckh@0.5": 70.0}]
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for epoch, valid in enumerate(figures, 1):
            line = {"epoch": epoch, "step": epoch, "loss": None if epoch == 2 else 1.0 / epoch, "data_wait": 0.25}
            file.write(json.dumps(line | ({"valid": valid} if valid else {})) + "\n")
    page = write(tmp_path)
    labels = {figure["aria-label"] for figure in page.all("figure")}
    assert "Loss, mean of the epoch: loss from 1 to 0.25" in labels
    assert "Accuracy on the validation split, percent: pckh@0.5 from 30 to 70" in labels
    assert "Accuracy of parts on the validation split, percent: ankle from 20 to 80" in labels
    assert "Waiting for data, percent of the time: waiting from 25 to 25" in labels
    drawn = re.search(r"<figcaption>Accuracy of parts.*?</svg>", page.source, re.DOTALL)
    assert drawn is not None
    curve = re.search(r'<path d="([^"]*)"[^>]*stroke: var\(--line-0\)', drawn[0])
    assert curve is not None
    points = np.array([[float(word) for word in pair] for pair in re.findall(r"[ML] ([\d.]+) ([\d.]+)", curve[1])])
    assert len(points) == 3
    steps = np.diff(points, axis=0)
    assert steps[1, 0] == pytest.approx(steps[0, 0] / 2, rel=1e-3), "epochs 1, 3 and 4"
    assert steps[1, 1] == pytest.approx(2 * steps[0, 1], rel=1e-3) and steps[0, 1] < 0, "20, 40 and 80 percent, upwards"


# ---- missing or broken parts ----


@pytest.mark.parametrize("missing", ["config.yaml", "metrics.jsonl", "best.pt", "checkpoint.pt", "events"])
def test_any_part_may_be_missing(ran: Path, missing: str) -> None:
    shutil.rmtree(ran / missing) if (ran / missing).is_dir() else (ran / missing).unlink()
    page = write(ran)
    note = {"config.yaml": "There is no config.yaml", "metrics.jsonl": "There is no metrics.jsonl"}.get(missing)
    assert note is None or note in page.text
    assert ("checkpoint.pt" if missing == "best.pt" else "best.pt") in page.cells


@pytest.mark.parametrize("remaining", ["config.yaml", "metrics.jsonl", "best.pt", "checkpoint.pt"])
def test_any_part_is_enough(ran: Path, tmp_path: Path, remaining: str) -> None:
    (tmp_path / "one").mkdir()
    shutil.copy(ran / remaining, tmp_path / "one")
    assert remaining in write(tmp_path / "one").cells


def test_broken_lines_are_listed_and_omitted(ran: Path) -> None:
    path = ran / "metrics.jsonl"
    good = path.read_text()
    path.write_text(good + '[1, 2]\n{"epoch": "x", "step": 1}\n\n' + "[" * 100_000 + '\n{"epoch": 3, "st')
    page = write(ran)
    assert "metrics.jsonl, lines 4, 5, 7 and 1 more: not JSON with epoch and step, omitted" in page.text
    epochs = [line["epoch"] for line in read_run(ran).lines]
    path.write_text(good)
    assert epochs == [line["epoch"] for line in lines(ran)] == [1, 2, 3]
    assert re.findall("<svg.*?</svg>", page.source, re.DOTALL) == re.findall("<svg.*?</svg>", write(ran).source, re.DOTALL)


@pytest.mark.parametrize("broken", ["config.yaml", "best.pt", "checkpoint.pt", "events"])
@pytest.mark.parametrize("content", [b"", b"\x00\xff\xfe junk: [", b"- just\n- a list\n"])
def test_a_broken_part_is_a_note(ran: Path, broken: str, content: bytes) -> None:
    path = next((ran / "events").iterdir()) if broken == "events" else ran / broken
    path.write_bytes(content)
    page = write(ran)
    if broken != "checkpoint.pt":  # which is not needed beside best.pt
        assert broken == "events" or broken in re.search(r'<div class="notes".*?</div>', page.source, re.DOTALL)[0]  # type: ignore[index]
    assert "Loss" in page.text


def test_values_that_training_never_writes(ran: Path) -> None:
    """Text instead of numbers, huge numbers, nested lists: shown or omitted, never a traceback."""
    (ran / "metrics.jsonl").write_text(
        '{"epoch": 1, "step": 5, "loss": "high", "lr": [1], "images_per_s": 0, "valid": {"pck@0.2": "x", "epe_px": 1e308}}\n'
        '{"epoch": 2, "step": 4, "loss": NaN, "lr": {"a": 1}, "images_per_s": -1, "valid": [1]}\n'
        '{"epoch": 3, "step": 6, "loss": true, "valid": {"new": Infinity, "pck@0.2": 1e-300}}\n'
    )
    (ran / "config.yaml").write_text("model: 3\ntrain: [1]\nloss: null\nbatch_size: many\ndataset: {a: 1}\nexp: [x]\n")
    assert "high" in write(ran).cells


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_text("x"), "is a file"),
        (lambda path: path.mkdir(), "is empty"),
        (lambda path: (path.mkdir(), (path / "notes.txt").write_text("x")), "is not the folder of a run"),
    ],
)
def test_no_run_is_one_sentence(tmp_path: Path, error_of: ErrorOf, make: Callable[[Path], object], message: str) -> None:
    make(tmp_path / "run")
    before = sorted(tmp_path.rglob("*"))
    assert message in error_of(report.main, tmp_path / "run")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out", "{run}/config.yaml"], "must end in .html"),
        (["--out", "{run}/best.pt/page.html"], "cannot make the folder"),
        (["--records", "[{run}/nothing.json]"], "there is no"),
        (["--records", "[{run}/config.yaml]"], "cannot be read as JSON"),
        (["--records", "[{run}/events]"], "has no record of bench/"),
        (["--record", "[x.json]"], "did you mean --records"),
    ],
)
def test_bad_flags_are_one_sentence(ran: Path, flags: list[str], message: str) -> None:
    before = (ran / "config.yaml").read_bytes()
    with pytest.raises(HgfastError, match=re.escape(message)):
        write(ran, *[flag.replace("{run}", str(ran)) for flag in flags])
    assert (ran / "config.yaml").read_bytes() == before and not (ran / "report.html").exists()


def test_a_report_never_overwrites_what_it_reads(ran: Path, tmp_path: Path) -> None:
    shutil.copy(LATENCY, tmp_path / "latency.html")
    with pytest.raises(HgfastError, match="would overwrite a file that --records names"):
        write(ran, "--records", f"[{tmp_path}/latency.html]", "--out", tmp_path / "latency.html")
    assert (tmp_path / "latency.html").read_bytes() == LATENCY.read_bytes()


def test_an_evaluation_that_fails_says_why(ran: Path, tmp_path: Path, in_process: Command) -> None:
    done = in_process(report.main, ran, "--data", tmp_path / "nowhere")
    assert done.returncode == 2 and "nowhere" in done.stderr and "Traceback" not in done.stderr
    (ran / "best.pt").unlink()
    (ran / "checkpoint.pt").unlink()
    with pytest.raises(HgfastError, match="to evaluate"):
        write(ran, "--evaluate")


# ---- files of this run and of others ----


def test_flags_of_the_data_change_what_the_run_has(ran: Path) -> None:
    trained_on = yaml.safe_load((ran / "config.yaml").read_text())

    def chosen(*words: str) -> Any:
        config = report.parse(report.ReportConfig, [str(ran), *words], positional="folder")
        return report.merge_data_config(config, trained_on, report.explicit_flags(words))

    assert (chosen().versions, str(chosen().data)) == (["gs", "hom"], trained_on["data"])
    assert str(chosen("--data", "other").data) == "other" and chosen("--data", "other").versions == ["gs", "hom"]
    everything = "[gs,hom,sample,auto]"  # the flag's own default, but not what the run was trained with
    assert chosen("--versions", everything).versions == ["gs", "hom", "sample", "auto"]
    trained_on["data"] = {"a": 1}
    with pytest.raises(HgfastError, match=r"data in .*config\.yaml is not a plain value"):
        chosen()


def test_exports_of_other_checkpoints(ran: Path, tmp_path: Path) -> None:
    export(ran, ran / "best.pt")
    export(tmp_path, ran / "best.pt", "other.onnx", checkpoint_sha256="1" * 64)
    spoiled = export(ran, ran / "best.pt", "spoiled.onnx")
    spoiled.write_bytes(b"another network")
    page = write(ran, "--records", f"[{tmp_path / 'other.onnx.json'}]")
    rows = [
        page.cells[start : start + 11] for start, cell in enumerate(page.cells) if cell.endswith((".int8.onnx", "other.onnx"))
    ]
    owners = {row[0]: next(cell for cell in row if cell.endswith("checkpoint")) for row in rows if "int8" in row}
    assert owners == {"best.int8.onnx": "this checkpoint", str(tmp_path / "other.onnx"): "another checkpoint"}
    assert "does not belong to" in page.text and "spoiled.onnx" in page.text


def test_records_of_this_run_carry_no_warning(ran: Path, tmp_path: Path) -> None:
    record = json.loads(LATENCY.read_text())
    for command, warns in ((f"python bench/latency.py --checkpoint {ran}/best.pt", False), ("python bench/latency.py", True)):
        (ran / "latency.json").write_text(json.dumps({**record, "command": command}))
        page = write(ran)
        assert ("not of this run" in page.text) == warns
        assert "record of a benchmark" in page.cells
    copy = shutil.copy(ran / "best.pt", tmp_path / "copy.pt")
    made = export(tmp_path, ran / "best.pt", "made.onnx")
    strange = {"command": "python 'unfinished \0 x.pt", "checkpoints": ["y" * 5000 + ".pt"]}
    for changed in ({"command": f"python bench/pckh.py {copy}"}, {"command": f"bench/latency.py --files=[{made}]"}, strange):
        (ran / "latency.json").write_text(json.dumps({**record, **changed}))
        assert ("not a checkpoint of this run" in write(ran).text) == (changed is strange)


def test_an_evaluation_older_than_the_checkpoint_says_so(ran: Path) -> None:
    rows = [{"method": "network", "pck@0.2": 0.5}]
    content = {"checkpoint": str(ran / "best.pt"), "dataset": "freihand", "split": "test", "rows": rows, "joints": []}
    (ran / "result.json").write_text(json.dumps(content))
    assert "evaluate again" not in write(ran).text
    os.utime(ran / "result.json", (1, 1))
    assert "best.pt has been written since then: evaluate again" in write(ran).text
    (ran / "result.json").write_text(json.dumps({**content, "checkpoint": "exp/another/best.pt"}))
    assert "exp/another/best.pt, not of this run" in write(ran).text


def test_images_too_many_too_large_or_invalid(ran: Path) -> None:
    (ran / "found").mkdir()
    for number in range(15):
        cv2.imwrite(str(ran / f"found/{number:02}.png"), np.full((40, 60, 3), 10 * number, np.uint8))
    (ran / "found/broken.jpg").write_bytes(b"no image")
    (ran / "curve.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 9 9'><script>alert(1)</script></svg>")
    (ran / "worst.png").write_bytes(b"\x89PNG" + bytes(9 << 20))
    notes: list[str] = []
    shown = find_galleries(ran, set(), notes)
    assert [gallery.source for gallery in shown] == ["curve.svg", *(f"found/{n:02}.png" for n in range(12))]
    assert any("worst.png is not shown" in note for note in notes) and any("more images" in note for note in notes)
    page = write(ran)
    assert "<script" not in page.source


def test_partial_grid_drops_empty_tiles(tmp_path: Path) -> None:
    sheet = np.zeros((2 * TILE_SIZE, 8 * TILE_SIZE, 3), np.uint8)
    sheet[:TILE_SIZE], sheet[TILE_SIZE:, : 2 * TILE_SIZE] = 200, 100
    cv2.imwrite(str(tmp_path / "sheet.jpg"), sheet)
    (gallery,) = find_galleries(tmp_path, set(), [])
    assert [(image.width, image.height) for image in gallery.images] == [(2 * TILE_SIZE, TILE_SIZE)] * 5


# ---- content of files is escaped ----


def test_names_and_values_are_escaped(ran: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run <b>&amp;\"' "
    shutil.copytree(ran, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(
        yaml.safe_dump({**config, "exp": MALICIOUS, "dataset": MALICIOUS, "data": f'"{MALICIOUS}'})
    )
    line = {**lines(folder)[-1], "valid": {MALICIOUS: 0.5, f"pck {MALICIOUS} $\\frac$": 0.25, "]]>": 0.1}, MALICIOUS: MALICIOUS}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    (folder / "<img src=x onerror=alert(1)>.txt").write_text("x")
    record = json.loads(LATENCY.read_text())
    record["rows"][0][MALICIOUS] = record["rows"][0]["way"] = MALICIOUS
    (folder / "record.json").write_text(
        json.dumps({**record, "command": MALICIOUS, "conclusions": [MALICIOUS], "revision": MALICIOUS})
    )
    joint = [{"joint": MALICIOUS, "pck@0.2": 0.5, "epe_px": 1.0}]
    result = {
        "checkpoint": MALICIOUS,
        "dataset": MALICIOUS,
        "split": MALICIOUS,
        "rows": [{"method": MALICIOUS, MALICIOUS: 1}],
        "joints": joint,
    }
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "broken.json").write_text(MALICIOUS)
    page = write(folder)
    assert not page.all("script") and len(page.all("img")) == page.source.count('<img src="data:')
    assert page.cells.count(MALICIOUS) >= 4 and "<img src=x onerror=alert(1)>.txt" in page.cells
    assert page.text.count(MALICIOUS) > 12


def test_the_events_of_a_run_that_was_continued(tmp_path: Path) -> None:
    image = np.full((TILE_SIZE, 3 * TILE_SIZE, 3), 90, np.uint8)
    for step, shade in ((10, 90), (20, 200)):
        log = RunLogger(tmp_path, step - 10)
        log.log_image(step, "valid/grid", image // 90 * shade)
        log.close()
    found = read_events(tmp_path)
    step, encoded = found.images["valid/grid"]
    assert step == 20 and abs(int(cv2.imdecode(np.frombuffer(encoded, np.uint8), 0).mean()) - (200)) < 3
    assert found.first_time is not None and found.last_time is not None
    assert 0 < found.last_time - found.first_time < 60 and abs(found.first_time - datetime.now(timezone.utc).timestamp()) < 600
    last = sorted((tmp_path / "events").iterdir())[-1]
    last.write_bytes(last.read_bytes()[:-20])  # a kill
    assert read_events(tmp_path).images["valid/grid"][0] == 10


# ---- formatting and columns ----


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0.48722, "0.4872"), (3, "3"), (1672, "1\u2009672"), (19.5755, "19.58"), (1e-5, "1.00e-05"), (0.0, "0")),
        *((12345.6, "12\u2009346"), (-2.5, "-2.5"), (1e300, "1.00e+300"), (10**400, "–")),
        *((float("nan"), "–"), (float("inf"), "–")),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert format_number(value) == text


def test_empty_columns_are_omitted() -> None:
    rows = [{"way": "a", "device": "cpu", "none": None, "ms": 1.5}, {"way": "b", "device": "cpu", "none": None, "ms": 1.5}]
    found = table(rows, merge_constant=True)
    assert (found.header, found.rows, found.numeric) == (["variant", "ms"], [["a", "1.5"], ["b", "1.5"]], [False, True])
    assert found.caption == "In all rows: device cpu."
    assert table([]).rows == [] and bench_table([]).rows == []


def test_joints_without_a_metric() -> None:
    metric, rows = joint_table([{"joint": "wrist", "pckh@0.5": 25.0, "epe_px": None}, {"joint": "hip", "pckh@0.5": None}])
    assert metric == "pckh@0.5" and [(row.name, row.fraction, row.error) for row in rows] == [
        ("wrist", 0.25, "–"),
        ("hip", 0.0, "–"),
    ]
    assert joint_table([]) == ("", []) and joint_table([{"joint": "a"}]) == ("", [])


def test_skipped_rows_are_grouped_by_reason() -> None:
    rows = [
        {"way": "tensorrt", "precision": "fp32", "median_ms": None, "note": "no GPU"},
        {"way": "tensorrt", "precision": "fp16", "median_ms": None, "note": "no GPU"},
        {"way": "onnx", "precision": "fp32", "median_ms": 2.0, "note": ""},
    ]
    assert skipped_reasons(rows) == ["Not measured, no GPU: tensorrt fp32, tensorrt fp16."]
    assert [row[0] for row in bench_table(rows).rows] == ["onnx"]


def test_files_of_crowded_folders_are_counted(tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for number in range(MAX_LISTED + 1):
        (tmp_path / f"many/{number}.jpg").write_bytes(bytes(100))
    (tmp_path / "checkpoint-00000500.pt").write_bytes(bytes(1500))
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / ".best.pt.77.writing").write_bytes(b"x")
    found = {file.name: (file.size, file.description) for file in list_files(tmp_path, {}, tmp_path / "report.html")}
    assert found["many/"] == (f"{100 * (MAX_LISTED + 1) / 1000:.3g} kB", f"{MAX_LISTED + 1} files")
    assert found["checkpoint-00000500.pt"][0] == "1.5 kB" and "older training state" in found["checkpoint-00000500.pt"][1]
    assert "a link to nowhere" in found["broken"][1] and "remove it" in found[".best.pt.77.writing"][1]
    assert len(found) == 4


def test_without_matplotlib_the_rest_is_there(ran: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("hgfast.reporting.page.training_curves", media.training_curves)
    page = write(ran)
    assert "There are no curves: the curves require matplotlib: pip install matplotlib" in page.text
    assert not page.all("svg") and "best.pt" in page.cells


def test_aliases_of_aliases_in_the_configuration_are_a_note(tmp_path: Path) -> None:
    """train.py refuses such a file too: it would expand to too many values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    (tmp_path / "config.yaml").write_text("\n".join(lines))
    found = read_run(tmp_path)
    assert found.config == {} and any("config.yaml" in note and "aliases" in note for note in found.notes)


def test_pipes_and_devices_are_not_read(ran: Path) -> None:
    """Reading a pipe without a writer would never end."""
    for name in ("evaluation.json", "events/events.out.tfevents.1", "checkpoint-00000001.pt", "drawn.jpg"):
        os.mkfifo(ran / name)
    (ran / "zero.json").symlink_to("/dev/zero")
    text = write(ran).text
    for name in ("evaluation.json", "zero.json"):
        assert f"{name} cannot be read as JSON (it is a pipe or a device) and is omitted." in text
    for name in ("metrics.jsonl", "config.yaml"):
        (ran / name).unlink()
        os.mkfifo(ran / name)
    assert "metrics.jsonl cannot be read (it is a pipe or a device)" in write(ran).text
