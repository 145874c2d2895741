"""The demo's files: repeatable, and good enough to load."""

import csv
import zipfile
from collections import Counter
from pathlib import Path

import iso18245
import pycountry
import pytest

from paystream.errors import UsageError
from paystream.loader import sample
from paystream.loader.merchants import read_merchants
from paystream.loader.source import read_source


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(tmp_path: Path) -> None:
    for name, seed in [("a", 7), ("b", 7), ("c", 8)]:
        size = sample.write_merchants(tmp_path / name, 500, seed)
        assert size == (tmp_path / name).stat().st_size
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_sample_merchants_are_real_codes_in_a_skewed_mix(tmp_path: Path) -> None:
    sample.write_merchants(tmp_path / "m.csv", 10_000, 1)
    with (tmp_path / "m.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["merchant_id"]) for row in rows] == list(range(1, 10_001))
    countries = Counter(row["country"] for row in rows)
    codes = Counter(row["category_code"] for row in rows)
    for country in countries:
        assert pycountry.countries.get(alpha_2=country) is not None
    for code in codes:
        assert iso18245.get_mcc(code).mcc == code
    assert len(countries) > 150
    assert len(codes) > 150
    # The five most frequent of hundreds hold more than a third.
    assert sum(number for _, number in codes.most_common(5)) > len(rows) / 3
    assert read_merchants(read_source("Merchants file", tmp_path / "m.csv")).columns["merchant_id"][-1] == 10_000


def test_the_sample_rates_are_the_banks_zip(tmp_path: Path) -> None:
    sample.write_fx(tmp_path / "fx.zip")
    with zipfile.ZipFile(tmp_path / "fx.zip") as archive:
        assert archive.testzip() is None
        assert archive.read("eurofxref-hist.csv").startswith(b"Date,USD,JPY,")


def test_a_place_that_cannot_be_written_is_wrong_use_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in [tmp_path / "missing" / "m.csv", tmp_path / "folder"]:
        with pytest.raises(UsageError, match=f"Sample file '{path}': "):
            sample.write_merchants(path, 1, 1)
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]
