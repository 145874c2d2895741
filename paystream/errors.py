"""Errors a user meets: each message is one line that says what failed, why, and what to do next."""


class PaystreamError(Exception):
    """An expected failure, shown as one line on stderr. The traceback appears only with ``--debug``.

    Write the message as ``<what failed> '<name>': <cause>. <what to do next>.``
    """

    exit_code = 1


class CheckFailed(PaystreamError):
    """A check came out negative: drift, a missed threshold, lost messages."""

    exit_code = 1


class UsageError(PaystreamError):
    """Wrong use or wrong configuration: nothing was attempted."""

    exit_code = 2


class ServiceUnavailable(PaystreamError):
    """Kafka or ClickHouse cannot be reached."""

    exit_code = 3
