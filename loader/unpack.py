"""Files as exports write them: compressed, in an archive, or as an office program's own format, which is named."""

import bz2
import gzip
import io
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import IO

from paystream.loader.fetch import Limits
from paystream.loader.source import Source

CHUNK_BYTES = 1 << 20

_OLD_OFFICE = b"\xd0\xcf\x11\xe0"
_EXPORT = "Export it as CSV (UTF-8) or Parquet"


def _gzip(_: Source, packed: io.BytesIO) -> IO[bytes]:
    return gzip.GzipFile(fileobj=packed)


def _bzip2(_: Source, packed: io.BytesIO) -> IO[bytes]:
    return bz2.BZ2File(packed)


def _zstandard(_: Source, packed: io.BytesIO) -> IO[bytes]:
    import pyarrow as pa

    return pa.CompressedInputStream(pa.BufferReader(packed.getbuffer()), "zstd")


def _member(source: Source, packed: io.BytesIO) -> IO[bytes]:
    """Open the one table of an archive, or the one file that it has."""
    archive = zipfile.ZipFile(packed)
    members = [member for member in archive.infolist() if not member.is_dir() and "__MACOSX/" not in member.filename]
    names = {member.filename for member in members}
    if "[Content_Types].xml" in names:
        raise source.refuse("it is an Excel workbook (.xlsx)", _EXPORT)
    if "mimetype" in names:
        raise source.refuse("it is an office program's document", _EXPORT)
    tables = [member for member in members if member.filename.lower().endswith((".csv", ".parquet"))]
    if len(tables or members) != 1:
        raise source.refuse(f"the ZIP holds {len(tables or members)} files instead of one")
    [member] = tables or members
    return archive.open(member)


_FORMATS: list[tuple[bytes, str, Callable[[Source, io.BytesIO], IO[bytes]]]] = [
    (b"PK\x03\x04", "ZIP", _member),
    (b"PK\x05\x06", "ZIP", _member),
    (b"\x1f\x8b", "compressed file", _gzip),
    (b"BZh", "compressed file", _bzip2),
    (b"\x28\xb5\x2f\xfd", "compressed file", _zstandard),
]


def unpacked(source: Source, largest_bytes: int = Limits().largest_bytes) -> Source:
    """Return what is in a file that gzip, bzip2 or zstd compressed, or in an archive (zip) of one file; else itself.

    The checksum stays that of the file as it came.

    Raises:
        CheckFailed: it is damaged, larger than ``largest_bytes`` when it is unpacked, an archive of several files or
            of none, or an office program's file.
    """
    if source.data.startswith(_OLD_OFFICE):
        raise source.refuse("it is an Excel workbook of the old format (.xls)", _EXPORT)
    packing = next(((what, opener) for magic, what, opener in _FORMATS if source.data.startswith(magic)), None)
    if not packing:
        return source
    what, opener = packing
    data = bytearray()
    try:
        stream = opener(source, io.BytesIO(source.data))
        while chunk := stream.read(CHUNK_BYTES):
            data += chunk
            if len(data) > largest_bytes:
                raise source.refuse(f"what the {what} holds is larger than {largest_bytes:,} bytes")
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        cause = str(error) or type(error).__name__
        raise source.refuse(f"the {what} is truncated or damaged ({cause})", "Fetch it again") from None
    return replace(source, data=bytes(data), packed=source.data)
