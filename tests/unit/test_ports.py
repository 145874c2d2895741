"""Free ports: none that somebody is about to listen on."""

from paystream.devstack import ports


def test_a_port_that_is_about_to_be_used_is_not_given() -> None:
    left = ports._CANDIDATES[-100:]
    besides = ports._CANDIDATES[:-100]
    assert {ports.free_port(besides=besides) for _ in range(20)} <= set(left)


def test_a_run_of_ports_leaves_out_what_is_taken() -> None:
    besides = [port for port in ports._CANDIDATES if port % 10 == 0]
    first = ports.free_run(9, besides=besides)
    assert first % 10 == 1
