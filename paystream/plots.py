"""Plots as SVG files that come out the same each time. Needs matplotlib, which the extra `memo` brings."""

from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot
from matplotlib.figure import Figure

SETTINGS = {
    "svg.fonttype": "none",  # text stays text: small, and read by any browser's own font
    "svg.hashsalt": "paystream",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def write(plots: Mapping[str, Callable[[], Figure]], folder: Path, creator: str) -> list[Path]:
    """Draw plots, each into the file of its name, and return the files."""
    folder.mkdir(exist_ok=True)
    files = []
    with pyplot.rc_context(SETTINGS):
        for name, draw in plots.items():
            figure = draw()
            file = folder / f"{name}.svg"
            figure.savefig(file, metadata={"Date": None, "Creator": creator}, bbox_inches="tight")
            pyplot.close(figure)
            # matplotlib ends lines with blanks.
            text = "\n".join(line.rstrip() for line in file.read_text(encoding="utf-8").splitlines())
            file.write_text(text + "\n", encoding="utf-8")
            files.append(file)
    return files
