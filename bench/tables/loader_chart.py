"""Bar chart of loaders; requires matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hgfast.bench.harness.record import Row
from hgfast.errors import HgfastError

try:
    from matplotlib.figure import Figure

    from hgfast.visualization.charts import write_figure
except ImportError as error:
    raise HgfastError("--chart requires matplotlib: pip install matplotlib, or leave out --chart") from error

LOADER_COLORS = {
    "read_only": "#cccccc",
    "decode_only": "#aaaaaa",
    "dali_cpu": "#76b900",
    "dali_gpu": "#3f6b00",
    "torch": "#ee8866",
    "seed_style": "#4477aa",
}
HIDDEN_LOADERS = ("read_only",)  # hundreds of times faster than the other rows


def draw_loader_chart(rows: Sequence[Row], path: Path, title: str) -> None:
    """Draw images/s of every measured row, with a panel for each layout on images and on crops.

    Raises:
        HgfastError: the file cannot be written.
    """
    panels = list(dict.fromkeys((row["layout"], row["cached"]) for row in rows))
    figure = Figure(figsize=(11, 3.2 * -(-len(panels) // 2)), layout="constrained")
    axes = figure.subplots(-(-len(panels) // 2), 2, squeeze=False).flat
    for axis, (layout, cached) in zip(axes, panels):
        shown_rows = [r for r in rows if (r["layout"], r["cached"]) == (layout, cached) and r["images_per_s"] is not None]
        shown_rows = [r for r in shown_rows if r["loader"] not in HIDDEN_LOADERS][::-1]
        names = [f"{r['loader']} {r['variant']}" for r in shown_rows]
        rates = [r["images_per_s"] for r in shown_rows]
        errors = [
            [r["images_per_s"] - r["images_per_s_min"] for r in shown_rows],
            [r["images_per_s_max"] - r["images_per_s"] for r in shown_rows],
        ]
        bars = axis.barh(names, rates, xerr=errors, color=[LOADER_COLORS[r["loader"]] for r in shown_rows], error_kw={"lw": 0.8})
        axis.bar_label(bars, [f" {rate:.0f}" for rate in rates], padding=3, fontsize=8)
        axis.margins(x=0.15)
        axis.set_title(f"{layout}, {'cached crops' if cached else 'whole images'}", fontsize=10)
        axis.set_xlabel("images/s (median; lines: lowest to highest round)", fontsize=8)
        axis.tick_params(labelsize=8)
    threads = rows[0]["threads"]
    figure.suptitle(f"{title}, {threads} threads", fontsize=9)
    write_figure(figure, path, "--chart")
