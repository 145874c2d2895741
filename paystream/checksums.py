"""Files and their SHA-256, as ``sha256sum --check`` reads them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from paystream.errors import UsageError


def digest(path: Path) -> str:
    """Return a text file's SHA-256 in hexadecimal. Windows' line ends count as ``\\n``: a checkout may change them."""
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def text(digests: Mapping[str, str]) -> str:
    """Return a line for each file, from its digest by its path."""
    return "".join(f"{value}  {path}\n" for path, value in digests.items())


def parse(lines: str, what: str, advice: str) -> dict[str, str]:
    """Return the digest of each file by its path. Empty lines and those that begin with ``#`` say nothing.

    Args:
        lines: what ``text`` wrote.
        what: which file that is, for the message.
        advice: what to do about a malformed one.

    Raises:
        UsageError: a line is malformed, or a path is there twice.
    """
    digests: dict[str, str] = {}
    for line in lines.splitlines():
        if not line or line.startswith("#"):
            continue
        value, _, path = line.partition("  ")
        if len(value) != 64 or not path or path in digests:
            raise UsageError(f"{what} cannot be read: {line[:100]!r}. {advice}")
        digests[path] = value
    return digests
