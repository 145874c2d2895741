"""Free ports: none that somebody is about to listen on."""

from paystream.devstack import ports


def test_a_port_that_is_about_to_be_used_is_not_given() -> None:
    left = ports._CANDIDATES[-100:]
    besides = ports._CANDIDATES[:-100]
    assert {ports.free_port(besides=besides) for _ in range(20)} <= set(left)
