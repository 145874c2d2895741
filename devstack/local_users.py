"""The local ClickHouse's users beside ``default``: one for each role that ``access/roles.sql`` defines."""

import re
from xml.sax.saxutils import escape

from paystream.errors import UsageError
from paystream.settings import project_folder

# The database that the file speaks of.
_DATABASE = "paystream"


def users_xml(database: str = _DATABASE) -> str:
    """Return a configuration file with the roles, their rights to a database, and their users.

    A server keeps users and roles that SQL makes; the local ClickHouse knows only those of its configuration. A role
    ``paystream_reader`` has a user ``reader``, without a password, as has ``default``.

    Raises:
        UsageError: the file has a statement that makes no role and gives or takes no right.
    """
    roles_file = project_folder() / "access" / "roles.sql"
    grants: dict[str, list[str]] = {}
    for statement in re.sub(r"--.*", "", roles_file.read_text(encoding="utf-8")).split(";"):
        text = " ".join(statement.split())
        if made := re.fullmatch(r"CREATE ROLE IF NOT EXISTS (\w+)", text):
            grants[made[1]] = []
        elif given := re.fullmatch(r"((?:GRANT|REVOKE) .*) (?:TO|FROM) (\w+)( WITH GRANT OPTION)?", text):
            query = re.sub(rf"\b{_DATABASE}(?=\.|_kafka\b|_dictionaries\b)", database, given[1]) + (given[3] or "")
            grants[given[2]].append(query)
        elif text:
            raise UsageError(
                f"File '{roles_file}': the local stack cannot follow `{text[:80]}`. Write CREATE ROLE IF NOT EXISTS, "
                "GRANT … TO one role and REVOKE … FROM one role only."
            )
    roles = "".join(
        f"<{role}><grants>{''.join(f'<query>{escape(query)}</query>' for query in queries)}</grants></{role}>"
        for role, queries in grants.items()
    )
    users = "".join(
        f"<{role.removeprefix('paystream_')}><password/><networks><ip>::/0</ip></networks>"
        f"<profile>default</profile><quota>default</quota><grants><query>GRANT {role}</query></grants>"
        f"</{role.removeprefix('paystream_')}>"
        for role in grants
    )
    return f"<clickhouse><roles>{roles}</roles><users>{users}</users></clickhouse>\n"
