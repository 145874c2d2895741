"""The same tests on a server whose default profile is somebody else's: settings that change what a query means.

Users turn each of them on for a whole server, for reasons of their own, and public reports tell of tools that then gave
other answers. The Kafka engine writes, and views refresh, under this profile as well.
"""

from collections.abc import Iterator

import pytest
from server_process import running_server
from test_dimensions import test_merchants_from_the_command_line_then_the_same_file_again_then_another  # noqa: F401
from test_reports import (  # noqa: F401
    ingest,
    test_reports_equal_the_batch_after_duplicates_late_states_restated_rates_and_repaired_merchants,
    warehouse,
)

from paystream.settings import Settings

PROFILE = {
    "join_use_nulls": 1,
    "group_by_use_nulls": 1,
    "aggregate_functions_null_for_empty": 1,
    "transform_null_in": 1,
    "session_timezone": "America/New_York",
    "date_time_input_format": "best_effort",
    "date_time_output_format": "iso",
    "async_insert": 1,
    "wait_for_async_insert": 0,
    "insert_null_as_default": 0,
    "enable_analyzer": 1,
    "max_threads": 1,
    "optimize_on_insert": 1,
}


@pytest.fixture(scope="module")
def clickhouse_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings that point to a server with this profile."""
    values = "".join(f"<{name}>{value}</{name}>" for name, value in PROFILE.items())
    files = {"users.d/zz_others.xml": f"<clickhouse><profiles><default>{values}</default></profiles></clickhouse>"}
    with running_server(tmp_path_factory.mktemp("others"), files) as server:
        yield server.settings
