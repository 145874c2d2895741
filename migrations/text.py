"""Read and write a file of the schema."""

from pathlib import Path

from paystream.errors import UsageError


def read_text(path: Path) -> str:
    """Return a file's text, without the mark that some editors put at its beginning (BOM).

    Raises:
        UsageError: it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"File '{path.parent.name}/{path.name}' cannot be read: it is no UTF-8 text. Save it as UTF-8."
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a file.

    Raises:
        UsageError: that is not possible.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"File '{path.parent.name}/{path.name}' cannot be written: {error.strerror}. Correct that, then repeat."
        ) from error
