"""Messages as the topic's producers send them."""

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any


def rfc3339(when: datetime) -> str:
    """Spell a moment the way the topic's producers do."""
    return when.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def payment(**changes: Any) -> dict[str, Any]:
    """Return a valid message's fields with some of them changed; a change to ``...`` leaves the field out."""
    now = datetime.now(UTC) - timedelta(seconds=1)
    fields = {
        "transaction_id": str(uuid.uuid4()),
        "merchant_id": 7,
        "amount": "12.34",
        "currency": "EUR",
        "status": "authorized",
        "created_at": rfc3339(now),
        "updated_at": rfc3339(now),
    } | changes
    return {name: value for name, value in fields.items() if value is not ...}


def message(**changes: Any) -> bytes:
    """Return a valid message with some fields changed."""
    return json.dumps(payment(**changes)).encode()
