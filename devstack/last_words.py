"""Why a process ended, in its own words."""

import re
from pathlib import Path


def last_words(*files: Path) -> str:
    """Return the line that tells best why a process ended: the last error in the last of its logs that has any."""
    lines = [
        line.strip()
        for file in files
        if file.exists()
        for line in file.read_text(errors="replace").splitlines()
        # Not the stack trace below an error.
        if line.strip() and not re.match(r"\s*(at |\.\.\.|\d+\. )", line)
    ]
    telling = [line for line in lines if re.search(r"error|exception|fatal", line, re.IGNORECASE)]
    return ["it ended without a word", *lines, *telling][-1].removeprefix("error: ")[:300].rstrip(".")
