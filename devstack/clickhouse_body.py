"""HTTP bodies of the local ClickHouse endpoint: reading them in pieces, undoing and applying compression."""

import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Protocol

import lz4.frame
import zstandard

PIECE_BYTES = 1 << 18
_LINE_BYTES = 1 << 12

_UNPACKERS: dict[str, tuple[Callable[[], Any], int]] = {
    # decoder of one frame, ClickHouse's error code when it fails
    "lz4": (lz4.frame.LZ4FrameDecompressor, 618),
    "zstd": (lambda: zstandard.ZstdDecompressor().decompressobj(), 561),
    "gzip": (lambda: zlib.decompressobj(31), 354),
    "deflate": (zlib.decompressobj, 354),
}
UNKNOWN_COMPRESSION_METHOD = 89


class MalformedBody(Exception):
    """The body is not what its headers say. ``code`` is the ClickHouse error code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Packer(Protocol):
    """A compressor of one stream."""

    def compress(self, data: bytes) -> bytes: ...
    def flush(self) -> bytes: ...


class RequestBody:
    """The bytes of one request's body as sent, read at most once.

    Raises:
        MalformedBody: the framing headers make no sense.
    """

    def __init__(self, source: BinaryIO, length: str | None, transfer_encoding: str | None) -> None:
        self.exhausted = False
        self._source = source
        if transfer_encoding and transfer_encoding.strip().lower() == "chunked" and length is None:
            self._pieces = self._chunked()
        elif transfer_encoding or (length is not None and not re.fullmatch(r"\d{1,18}", length.strip())):
            raise MalformedBody("Content-Length or Transfer-Encoding is not understood", 1)
        else:
            self._pieces = self._counted(int(length or 0))

    def pieces(self) -> Iterator[bytes]:
        """Yield what is still unread, in pieces of at most ``PIECE_BYTES``.

        Raises:
            MalformedBody: the chunks are not framed as HTTP has it, or the sender hung up early.
        """
        return self._pieces

    def drain(self, limit_bytes: int) -> bool:
        """Read and forget the rest, so that the next request can follow. Returns whether the end was reached."""
        read = 0
        try:
            for piece in self._pieces:
                read += len(piece)
                if read > limit_bytes:
                    break
        except MalformedBody:
            return False
        return self.exhausted

    def _counted(self, length: int) -> Iterator[bytes]:
        while length:
            piece = self._source.read(min(length, PIECE_BYTES))
            if not piece:
                raise MalformedBody("The connection was closed inside the body", 210)
            length -= len(piece)
            self.exhausted = not length
            yield piece
        self.exhausted = True

    def _chunked(self) -> Iterator[bytes]:
        while True:
            line = self._source.readline(_LINE_BYTES)
            size = re.fullmatch(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n", line)
            if not size:
                raise MalformedBody("The body's chunks are malformed or end early", 210)
            length = int(size[1], 16)
            if not length:
                break
            while length:
                piece = self._source.read(min(length, PIECE_BYTES))
                if not piece:
                    raise MalformedBody("The connection was closed inside the body", 210)
                length -= len(piece)
                yield piece
            if self._source.readline(_LINE_BYTES) != b"\r\n":
                raise MalformedBody("The body's chunks are malformed", 210)
        for _ in range(100):  # trailers
            if self._source.readline(_LINE_BYTES) in (b"\r\n", b"\n", b""):
                break
        self.exhausted = True


def decoded(pieces: Iterator[bytes], encoding: str | None) -> Iterator[bytes]:
    """Undo ``Content-Encoding``, whatever the number of frames.

    clickhouse-connect sends one LZ4 frame per block: a decoder that stops after the first would drop rows in silence.

    Raises:
        MalformedBody: the encoding is unknown, or the data is not in it, or ends inside a frame.
    """
    name = (encoding or "").strip().lower()
    if name in ("", "identity"):
        yield from pieces
        return
    if name not in _UNPACKERS:
        raise MalformedBody(
            f"Unknown compression method in Content-Encoding: {encoding!r}. Use one of {', '.join(_UNPACKERS)}",
            UNKNOWN_COMPRESSION_METHOD,
        )
    new_decoder, code = _UNPACKERS[name]
    decoder = None
    try:
        for piece in pieces:
            rest = piece
            while rest:
                decoder = decoder or new_decoder()
                plain = decoder.decompress(rest)
                rest = b""
                if decoder.eof:
                    rest = decoder.unused_data or b""
                    decoder = None
                if plain:
                    yield plain
    except (RuntimeError, ValueError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise MalformedBody(f"The body is not valid {name}: {error}", code) from error
    if decoder is not None:
        raise MalformedBody(f"The body ends inside a {name} frame", code)


def choose_encoding(accepted: str) -> str | None:
    """Return the response encoding for an ``Accept-Encoding`` header: the cheapest for this machine that it names."""
    names = {
        part.split(";")[0].strip().lower() for part in accepted.split(",") if not re.search(r";\s*q=0(?!\.)", part)
    }
    return next((name for name in _UNPACKERS if name in names), None)


def packer(encoding: str) -> tuple[Packer, bytes]:
    """Return a compressor of one stream and the bytes that open it."""
    if encoding == "lz4":
        compressor = lz4.frame.LZ4FrameCompressor()
        return compressor, compressor.begin()
    if encoding == "zstd":
        return zstandard.ZstdCompressor(level=1).compressobj(), b""
    return zlib.compressobj(1, wbits=31 if encoding == "gzip" else 15), b""


def form_fields(body: bytes, content_type: str) -> tuple[dict[str, str], dict[str, bytes]]:
    """Split a ``multipart/form-data`` body into its text fields and its files, by field name.

    Raises:
        MalformedBody: the content type names no boundary, or a part has no name.
    """
    boundary = re.search(r'boundary="?([^";]+)', content_type)
    if not boundary:
        raise MalformedBody("The form has no boundary", 1)
    fields, files = {}, {}
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary[1].encode())[1:]:
        if part.startswith(b"--"):
            break
        head, _, content = part.partition(b"\r\n\r\n")
        name = re.search(rb'\bname="([^"]*)"', head)
        if not name:
            raise MalformedBody("A part of the form has no name", 1)
        if b"filename=" in head:
            files[name[1].decode()] = content
        else:
            fields[name[1].decode()] = content.decode()
    return fields, files
