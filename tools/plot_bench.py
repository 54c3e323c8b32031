#!/usr/bin/env python3
"""plot_bench.py [-o DIR] FILE.csv ... -- plots of `polylepis bench --csv`, one set of SVG files for each device.

A file is the output of one or more runs, with lines about them between the rows:

    # label: polylepis          of the legend
    # device: H200              files of one device share a plot
    # state: bf16               of the rows that follow; f32 at first
    # date: anything            not drawn

so that a measurement is recorded and all plots are drawn anew by

    { echo '# label: polylepis'; echo '# device: H100'
      for shape in codestral-7b mamba2-2.7b; do
          polylepis bench --shape $shape --csv --batch 1,2,4,8,64
          polylepis bench --shape $shape --csv --mode prefill --tokens 2048,8192,32768
      done; } >docs/data/h100-polylepis.csv
    tools/plot_bench.py docs/data/*.csv

Rows with a failed check are refused.  Needs matplotlib."""
import argparse
import collections
import csv
import os
import re
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

Row = collections.namedtuple("Row", "label device state name shape size np us floor_us")
SHAPES = {"codestral-7b": "Codestral-7B shape", "mamba2-2.7b": "mamba2-2.7b shape", "mamba2-130m": "mamba2-130m shape",
          "falcon-mamba-7b": "FalconMamba-7B shape"}
COLOURS = ["#0b6e99", "#d1495b", "#66a182", "#8d6a9f", "#b8860b"]  # told apart by people who see red and green alike, too
MARKS = {1: "o", 2: "s", 4: "^", 8: "D"}


def read(path):
    """Rows of decode and prefill, with what the lines before them say."""
    said = {"label": os.path.basename(path), "device": "", "state": "f32"}
    columns = None
    with open(path, encoding="utf-8", newline="") as f:
        for number, fields in enumerate(csv.reader(f), 1):
            line = ",".join(fields)
            comment = re.match(r"# (\w+): (.*)", line)
            if comment:
                said[comment[1]] = comment[2]
            elif fields[:1] == ["name"]:
                columns = fields
            elif fields and columns:
                row = dict(zip(columns, fields))
                shape, _, size = row["shape"].rpartition(" ")
                if row["name"] not in ("decode", "prefill"):
                    continue
                if row["good"] != "1":
                    sys.exit(f"{path}:{number}: {row['name']} {row['shape']} failed its check: {row['check']}")
                yield Row(said["label"], said["device"], said["state"], row["name"], shape, int(size[2:]), int(row["np"]),
                          float(row["us_med"]), float(row["floor_us"]))


def series(rows):
    """Rows by line of the plot, in a fixed order."""
    lines = collections.defaultdict(list)
    for r in rows:
        lines[r.label, r.np, r.state].append(r)
    return [(key, sorted(lines[key], key=lambda r: r.size)) for key in sorted(lines, key=lambda k: (k[0] != "polylepis", k[:2], k[2] != "f32"))]


def draw(axes, rows, value, labels):
    """One panel.  Colour: who; mark: ranks; dashes: a 16-bit state."""
    for (label, np, state), points in series(rows):
        points = [p for p in points if value(p) is not None]
        if not points:
            continue
        text = f"{label}, {np} GPU{'s' if np > 1 else ''}" + (f", {state} state" if state != "f32" else "")
        axes.plot([p.size for p in points], [value(p) for p in points], color=COLOURS[labels.index(label) % len(COLOURS)],
                  marker=MARKS.get(np, "v"), markersize=5, linewidth=1.6, linestyle="--" if state != "f32" else "-",
                  markerfacecolor="white" if np > 1 else None, label=text)


def number(v, _=None):
    return f"{v:,.0f}".replace(",", " ") if v >= 10 else f"{v:g}"


def dress(axes, rows, title, x, y, log):
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xscale("log", base=2)
    sizes = sorted({r.size for r in rows})
    axes.set_xticks(sizes, [number(s) for s in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(number))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
        axes.yaxis.set_major_formatter(FuncFormatter(number))
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def share(r):
    return 100 * r.floor_us / r.us if r.floor_us > 0 else None


VIEWS = {  # file: of which rows, what of them, how it is called
    "decode": ("decode", lambda r: r.us / 1e3, "sequences of a step", "ms per step", True),
    "prefill": ("prefill", lambda r: r.size / r.us * 1e3, "tokens of the prompt", "thousand tokens/s", False),
    "floor-decode": ("decode", share, "sequences of a step", "share of the floor, %", False),
    "floor-prefill": ("prefill", share, "tokens of the prompt", "share of the floor, %", False),
}


def plot(path, rows, view, labels):
    name, value, x, y, log = VIEWS[view]
    rows = [r for r in rows if r.name == name and value(r) is not None]
    shapes = [s for s in SHAPES if any(r.shape == s for r in rows)]
    if not shapes:
        return
    figure, panels = plt.subplots(1, len(shapes), figsize=(4.6 * len(shapes), 4.2), squeeze=False)
    for axes, shape in zip(panels[0], shapes):
        mine = [r for r in rows if r.shape == shape]
        draw(axes, mine, value, labels)
        dress(axes, mine, f"{SHAPES[shape]}, {mine[0].device}", x, y, log)
        if y.endswith("%"):
            axes.set_ylim(0, 100)
    handles = {text: handle for axes in panels[0] for handle, text in zip(*axes.get_legend_handles_labels())}
    columns = len(shapes)
    lines = -(-len(handles) // columns)
    figure.tight_layout(rect=(0, 0.02 + 0.05 * lines, 1, 1))
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncol=columns, frameon=False, fontsize=9)
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    print(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", metavar="DIR", default=os.path.join(os.path.dirname(__file__), "..", "docs", "images"))
    parser.add_argument("file", nargs="+")
    given = parser.parse_args()
    # White behind everything: black text on a dark page's own ground could not be read.
    plt.rcParams.update({"svg.hashsalt": "polylepis", "svg.fonttype": "none", "figure.facecolor": "white", "savefig.facecolor": "white",
                         "font.size": 9, "axes.labelsize": 9})
    rows = [r for path in given.file for r in read(path)]
    labels = sorted({r.label for r in rows}, key=lambda label: (label != "polylepis", label))
    for device in sorted({r.device for r in rows}):
        short = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
        for view in VIEWS:
            plot(os.path.join(given.o, f"{view}-{short}.svg"), [r for r in rows if r.device == device], view, labels)


if __name__ == "__main__":
    main()
