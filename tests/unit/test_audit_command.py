"""`paystream audit` where nothing can be audited: one line, and the exit code of wrong use or of a missing service."""

import pytest


@pytest.mark.parametrize("window", ["", "1", "0m", "91d", "1h30m", "-5m"])
def test_a_malformed_window_is_refused(own_settings, paystream, window):
    process = paystream(own_settings, "audit", "--since", window)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, len(err.splitlines())) == (2, "", 1)
    assert f"Window '{window}': not a duration up to 90d" in err


def test_without_a_broker_it_says_so(own_settings, paystream):
    process = paystream(own_settings, "audit")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, len(err.splitlines())) == (3, "", 1)
    assert "cannot be reached" in err
