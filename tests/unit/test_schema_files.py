"""The files that people edit and the versions that nobody may: what is refused, and in which words."""

from pathlib import Path
from unittest.mock import Mock

import pytest
from checkouts import Checkout, following
from clickhouse_connect.driver.exceptions import DatabaseError

from paystream.errors import PaystreamError, UsageError
from paystream.migrations import lock_file, named_collection
from paystream.migrations.check import check_files, describe
from paystream.migrations.history import read_history, versions_folder
from paystream.migrations.runner import refuse_old_server
from paystream.migrations.schema import WRITE_VERSION, Difference
from paystream.migrations.sources import fingerprint, read_sources
from paystream.settings import Settings

NULL = "CREATE TABLE a (x UInt8) ENGINE = Null"
NEWEST, BEFORE = (version.id for version in read_history()[:-3:-1])
MORE, OTHER = following("more"), following("other")


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout.copied(tmp_path)


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        (
            "a",
            "CREATE TABLE a (x UInt8, ENGINE = Null",
            r"'sql/2_store/a\.sql' cannot be parsed: its parentheses do not pair\. Correct it\.$",
        ),
        ("a", "CREATE TABLE a (x String DEFAULT 'abc) ENGINE = Null", r"'sql/2_store/a\.sql' cannot be parsed"),
        ("a", f"{NULL}; CREATE TABLE b (x UInt8) ENGINE = Null", "holds 2 statements where one CREATE belongs"),
        ("a", "-- nothing yet", "holds 0 statements"),
        ("a", "SELECT 1", "holds another statement where one CREATE belongs"),
        ("b", NULL, r"creates 'a'\. Name the file as its object is: a\.sql\."),
        ("a", "CREATE TABLE IF NOT EXISTS a (x UInt8) ENGINE = Null", "Begin it with a plain CREATE"),
        ("a", NULL.replace(" a ", " payments.a "), "it names a database. Leave that out"),
        ("audits", NULL.replace(" a ", " audits "), "'audits' is written twice: in sql/2_store/audits.sql and in"),
    ],
)
def test_a_file_that_is_not_one_object_is_named(checkout: Checkout, file: str, text: str, complaint: str) -> None:
    folder = checkout.root / "sql" / ("4_report" if file == "audits" else "2_store")
    (folder / f"{file}.sql").write_text(text)
    with pytest.raises(UsageError, match=complaint):
        read_sources(checkout.root)


def test_a_file_in_another_encoding_is_named(checkout: Checkout) -> None:
    path = checkout.root / "sql" / "2_store" / "a.sql"
    path.write_bytes(f"\ufeff-- caf\u00e9\n{NULL}".encode())  # as some editors write UTF-8
    assert read_sources(checkout.root)["a"].text == f"-- caf\u00e9\n{NULL}"
    path.write_bytes(f"-- caf\u00e9\n{NULL}".encode("latin-1"))
    with pytest.raises(UsageError, match=r"'2_store/a\.sql' cannot be read: it is no UTF-8 text\. Save it as UTF-8\."):
        read_sources(checkout.root)


def test_a_lock_that_cannot_be_written_is_named(checkout: Checkout) -> None:
    lock_file.lock_path(checkout.versions).unlink()
    lock_file.lock_path(checkout.versions).mkdir()
    with pytest.raises(UsageError, match=r"versions\.lock' cannot be written: Is a directory\. Correct that"):
        lock_file.write_lock(checkout.versions, ["0001_store"])


@pytest.mark.parametrize(("code", "advice"), [(497, "Allow the ClickHouse user to"), (243, "Correct the cause")])
def test_named_collections_that_cannot_be_written(code: int, advice: str) -> None:
    backend = Mock()
    backend.connection.query.side_effect = DatabaseError(f"Code: {code}. DB::Exception: no (version 26.9.2.1)")
    with pytest.raises(PaystreamError, match=rf"cannot be written: no\. {advice}"):
        named_collection.sync(backend, Settings(_env_file=None), [])


def test_comments_and_spaces_mean_nothing() -> None:
    assert fingerprint("SELECT a,b -- why\nFROM t") == fingerprint("/* other */ SELECT a, b FROM\n\n t")
    assert fingerprint("SELECT a, b") != fingerprint("SELECT b, a")
    assert fingerprint("SELECT 'a -- b'") != fingerprint("SELECT 'a '")


def test_a_select_is_taken_out_of_its_view_as_it_is_written() -> None:
    sources = read_sources()
    select = sources["transactions_mv"].select
    assert select.startswith("WITH\n    dictGetOrNull(") and select.endswith("WHERE fault = ''")
    assert "-- Rounded here and in transactions_to_repair only" in select
    assert sources["report_merchant_by_day"].kind == "VIEW"
    assert sources["fx_rates_dict"].kind == "DICTIONARY"
    assert sources["ledger_mv"].kind == "MATERIALIZED VIEW"


def test_the_repository_is_locked_as_it_is() -> None:
    assert lock_file.locked_versions(versions_folder()) == [version.id for version in read_history()]
    assert check_files() == []


def _edit(folder: Path) -> None:
    path = folder / "0006_repair.rollback.sql"
    path.write_text(path.read_text() + "\n")


def _delete(folder: Path) -> None:
    for path in folder.glob(f"{NEWEST}.*"):
        path.unlink()


def _add(folder: Path) -> None:
    (folder / f"{MORE}.sql").write_text(f"-- depends: {NEWEST}\n{NULL};")
    (folder / f"{MORE}.rollback.sql").write_text("DROP TABLE IF EXISTS a SYNC;")


def _add_twice(folder: Path) -> None:
    _add(folder)
    (folder / f"{OTHER}.sql").write_text(f"-- depends: {MORE}\nSELECT 1;")
    (folder / f"{OTHER}.rollback.sql").write_text("SELECT 1;")


def _disorder(folder: Path) -> None:
    _add(folder)
    (folder / "0000_early.sql").write_text(f"-- depends: {MORE}\nSELECT 1;")
    (folder / "0000_early.rollback.sql").write_text("SELECT 1;")


def _delete_an_older_one(folder: Path) -> None:
    _add(folder)
    newer = folder / f"{MORE}.sql"
    newer.write_text(newer.read_text().replace(NEWEST, BEFORE))
    for path in folder.glob(f"{BEFORE}.*"):
        path.unlink()


def _delete_a_rollback(folder: Path) -> None:
    (folder / "0007_status.rollback.sql").unlink()


def _end_with_a_comment(folder: Path) -> None:
    path = folder / "0007_status.sql"
    path.write_text(path.read_text() + "-- done\n")


def _encode_otherwise(folder: Path) -> None:
    path = folder / "0007_status.sql"
    path.write_bytes(path.read_bytes() + "-- caf\u00e9\n".encode("latin-1"))


def _encode_the_lock_otherwise(folder: Path) -> None:
    lock_file.lock_path(folder).write_bytes(b"\xff")


def _delete_the_lock(folder: Path) -> None:
    lock_file.lock_path(folder).unlink()


def _merge(folder: Path) -> None:
    path = lock_file.lock_path(folder)
    path.write_text(path.read_text() + "<<<<<<< HEAD\n")


def _without_a_number(folder: Path) -> None:
    (folder / "more.sql").write_text(f"-- depends: {NEWEST}\nSELECT 1;")
    (folder / "more.rollback.sql").write_text("SELECT 1;")


def _mark(folder: Path) -> None:
    (folder / f"{MORE}.sql").write_text(f"-- depends: {NEWEST}\nSELECT throwIf(1, 'WRITE THIS STEP');")
    (folder / f"{MORE}.rollback.sql").write_text("SELECT 1;")
    lock_file.write_lock(folder, [*lock_file.locked_versions(folder), MORE])


def test_line_ends_of_windows_are_no_edit(checkout: Checkout) -> None:
    for path in [
        *checkout.versions.glob("*.sql"),
        lock_file.snapshot_path(checkout.versions),
        *checkout.root.rglob("*.sql"),
    ]:
        path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    assert [version.id for version in read_history(checkout.versions)] == [version.id for version in read_history()]
    assert check_files(checkout.root) == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (_edit, r"Version '0006_repair' was edited since it was locked\. .*`paystream migrate lock 0006_repair`"),
        (_delete, f"Version '{NEWEST}' was deleted since it was locked"),
        (_add, f"Version '{MORE}' is not in the lock file. Freeze it with `paystream migrate lock`"),
        (_add_twice, f"Versions '{MORE}' and '{OTHER}' have the same number"),
        (_disorder, f"Version '0000_early' is out of order: it depends on {MORE}"),
        (_delete_an_older_one, f"Version '{BEFORE}' was deleted since it was locked"),
        (_delete_a_rollback, "Version '0007_status' was deleted since it was locked"),
        (_end_with_a_comment, r"0007_status\.sql ends with a comment\. Move it before a statement"),
        (_encode_otherwise, r"'versions/0007_status\.sql' cannot be read: it is no UTF-8 text"),
        (_encode_the_lock_otherwise, r"versions\.lock' cannot be read: it is no UTF-8 text"),
        (_delete_the_lock, r"'versions\.lock' is missing: .* Restore it from the repository"),
        (_merge, "'<<<<<<< HEAD'. Restore it from the repository; after a merge, take one side's"),
        (_without_a_number, "'more' cannot be used: its name is not four digits, _ and words"),
        (_mark, f"Version '{MORE}' is not finished: step 1 has the mark 'WRITE THIS STEP'"),
    ],
)
def test_a_version_that_is_not_what_it_was_is_named(checkout: Checkout, change, complaint: str) -> None:
    change(checkout.versions)
    with pytest.raises(UsageError, match=complaint):
        read_history(checkout.versions)


@pytest.mark.parametrize(("version", "is_refused"), [("25.8.1.2672", True), ("25.9.1.1", False), ("26.9.2.1", False)])
def test_a_server_that_is_too_old_is_refused(version: str, is_refused: bool) -> None:
    settings = Settings.model_construct()
    if is_refused:
        with pytest.raises(UsageError, match=r"is too old: it is 25\.8\.1\.2672, and the schema needs 25\.9"):
            refuse_old_server(settings, version)
    else:
        refuse_old_server(settings, version)


@pytest.mark.parametrize(
    ("fix", "said"),
    [
        (WRITE_VERSION, "Run `paystream migrate new NAME`."),
        ("Write the step.", "Write the step."),
        ("Add WHERE length(_error) = 0", "Add WHERE length(_error) = 0."),  # as the linter says it
    ],
)
def test_what_to_do_about_a_difference_is_a_command_or_a_sentence(fix: str, said: str) -> None:
    assert describe([Difference("files", "a", "changed", fix=fix)]) == f"Schema of 'a' has drifted: a: changed. {said}"
