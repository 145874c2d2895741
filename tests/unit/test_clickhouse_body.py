"""Bodies of requests to the local ClickHouse: framing and compression."""

import gzip
import io
import zlib

import lz4.frame
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from devstack.clickhouse_body import MalformedBody, RequestBody, choose_encoding, decoded, form_fields, packer

PACKERS = {"lz4": lz4.frame.compress, "zstd": zstandard.compress, "gzip": gzip.compress, "deflate": zlib.compress}


@given(
    encoding=st.sampled_from(sorted(PACKERS)),
    frames=st.lists(st.binary(max_size=300), max_size=5),
    size=st.integers(1, 100),
)
def test_any_number_of_frames_cut_anywhere_is_read_whole(encoding: str, frames: list[bytes], size: int) -> None:
    packed = b"".join(PACKERS[encoding](frame) for frame in frames)
    pieces = (packed[start : start + size] for start in range(0, len(packed), size))
    assert b"".join(decoded(pieces, encoding)) == b"".join(frames)


@pytest.mark.parametrize("encoding", sorted(PACKERS))
def test_what_is_cut_short_or_is_not_packed_is_refused(encoding: str) -> None:
    packed = PACKERS[encoding](b"x" * 1000)
    for wrong in (packed[:-1], packed[:5], b"plain text", packed + b"and more"):
        with pytest.raises(MalformedBody):
            list(decoded(iter([wrong]), encoding))


def test_an_unknown_encoding_is_refused_by_name() -> None:
    with pytest.raises(MalformedBody, match="pigeon") as caught:
        list(decoded(iter([b"x"]), "pigeon"))
    assert caught.value.code == 89


@pytest.mark.parametrize("encoding", sorted(PACKERS))
def test_a_packed_stream_is_one_frame(encoding: str) -> None:
    compressor, packed = packer(encoding)
    for piece in (b"a" * 100_000, b"", b"b"):
        packed += compressor.compress(piece)
    packed += compressor.flush()
    unpack = {
        "lz4": lz4.frame.decompress,
        "zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
        "gzip": gzip.decompress,
        "deflate": zlib.decompress,
    }
    assert unpack[encoding](packed) == b"a" * 100_000 + b"b"


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        ("lz4,zstd,gzip,deflate", "lz4"),
        ("gzip;q=1.0, ZSTD;q=0.5", "zstd"),
        ("gzip;q=0, deflate", "deflate"),
        ("gzip;q=0.1", "gzip"),
        ("br, *", None),
        ("", None),
    ],
)
def test_the_response_is_packed_in_what_the_client_takes(accepted: str, chosen: str | None) -> None:
    assert choose_encoding(accepted) == chosen


@given(body=st.binary(max_size=2000), size=st.integers(1, 700))
def test_chunks_are_put_together(body: bytes, size: int) -> None:
    chunks = [body[start : start + size] for start in range(0, len(body), size)]
    framed = b"".join(b"%X;name=value\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    source = io.BytesIO(framed + b"0\r\nTrailer: x\r\n\r\nGET next")
    request = RequestBody(source, None, "chunked")
    assert b"".join(request.pieces()) == body
    assert request.exhausted
    assert source.read() == b"GET next"


def test_a_body_that_ends_early_is_refused() -> None:
    for source, length, transfer in ((b"abc", "4", None), (b"5\r\nabc", None, "chunked"), (b"", None, "chunked")):
        request = RequestBody(io.BytesIO(source), length, transfer)
        with pytest.raises(MalformedBody):
            list(request.pieces())
        assert not request.exhausted


@pytest.mark.parametrize(("length", "transfer"), [("-1", None), ("1e3", None), (None, "gzip"), ("3", "chunked")])
def test_framing_that_makes_no_sense_is_refused(length: str | None, transfer: str | None) -> None:
    with pytest.raises(MalformedBody):
        RequestBody(io.BytesIO(b"abc"), length, transfer)


def test_a_form_is_split_into_fields_and_files() -> None:
    body = (
        b'--B\r\nContent-Disposition: form-data; name="query"\r\n\r\nSELECT \xc3\xa9\r\n'
        b'--B\r\nContent-Disposition: form-data; name="t"; filename="name"\r\n\r\n\r\n\x00--\r\n\r\n'
        b"--B--\r\n"
    )
    assert form_fields(body, 'multipart/form-data; boundary="B"') == ({"query": "SELECT é"}, {"t": b"\r\n\x00--\r\n"})
