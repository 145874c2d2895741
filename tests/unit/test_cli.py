"""What the command line makes of an error that no command has an answer to."""

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError
from confluent_kafka import KafkaError, KafkaException

from paystream import cli

REFUSED = (
    "Received ClickHouse exception, code: 241, server response: Code: 241. DB::Exception: (total) memory limit exceeded"
    ": would use 1.13 GiB (MEMORY_LIMIT_EXCEEDED) (version 26.9.2.1) (for url http://127.0.0.1:18123)"
)


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (
            DatabaseError(REFUSED),
            1,
            "ClickHouse refused a statement: (total) memory limit exceeded: would use 1.13 GiB",
        ),
        (OperationalError("Connection refused"), 3, "ClickHouse was lost on the way: Connection refused"),
        (KafkaException(KafkaError(KafkaError._TRANSPORT)), 3, "Kafka stopped answering: "),
    ],
)
def test_an_error_of_a_service_is_one_line(
    error: Exception, code: int, says: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raise error

    monkeypatch.setattr(cli, "_assemble", lambda wanted: None)
    monkeypatch.setattr(cli, "app", fails)
    monkeypatch.setattr("sys.argv", ["paystream", "status"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == code
    [line] = capfd.readouterr().err.splitlines()
    assert says in line and "127.0.0.1:18123" not in line
    monkeypatch.setattr("sys.argv", ["paystream", "--debug", "status"])
    with pytest.raises(type(error)):
        cli.main()


def test_a_fault_of_our_own_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "_assemble", lambda wanted: None)
    monkeypatch.setattr(cli, "app", fails)
    with pytest.raises(ZeroDivisionError):
        cli.main()
