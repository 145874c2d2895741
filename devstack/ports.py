"""Free ports for servers."""

import contextlib
import random
import socket
from collections.abc import Collection

# Below the range from which Linux takes the ports of outgoing connections (32768 to 60999), as macOS does from 49152:
# while a server there is down, a client that keeps trying to reach it may be given the server's own port.
_CANDIDATES = range(20_000, 32_000)


def free_port(host: str = "127.0.0.1", besides: Collection[int] = ()) -> int:
    """Return a port of this address on which nobody listens.

    Args:
        host: the address.
        besides: ports not to return, since somebody is about to listen there.

    Raises:
        OSError: none of a hundred was free.
    """
    for port in random.sample(sorted(set(_CANDIDATES).difference(besides)), 100):
        try:
            socket.create_server((host, port)).close()
        except OSError as error:
            failure = error
        else:
            return port
    raise failure


def free_ports(count: int) -> list[int]:
    """Return so many loopback ports on which nobody listens.

    Raises:
        OSError: as ``free_port``.
    """
    ports: list[int] = []
    for _ in range(count):
        ports.append(free_port(besides=ports))
    return ports


def free_run(count: int, besides: Collection[int] = ()) -> int:
    """Return the first of so many loopback ports in a row on which nobody listens. Arguments as in ``free_port``.

    Raises:
        OSError: as ``free_port``.
    """
    while True:
        first = free_port(besides=[*besides, *_CANDIDATES[len(_CANDIDATES) - count + 1 :]])
        with contextlib.suppress(OSError):
            for port in range(first, first + count):
                if port in besides:
                    break
                socket.create_server(("127.0.0.1", port)).close()
            else:
                return first
