"""A stand-in for Apache Kafka that needs nothing but Python: the mock cluster inside confluent-kafka.

It speaks the real protocol over TCP, keeps about 5 MB a partition and forgets everything when it ends, so it is good
for a look and wrong for capacity, durability or crash tests.
"""

import argparse
import asyncio
import contextlib
import signal
import sys

from confluent_kafka import Producer

LIMITS = "it keeps about 5 MB a partition, forgets everything when it stops and proves nothing about durability"


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()


async def serve(host: str, port: int) -> None:
    """Run the broker until SIGTERM or SIGINT.

    The mock cluster listens on a port of its own choice. The configured port only forwards to it: a client asks there
    once which brokers exist, and is sent on to the mock's own address.

    Raises:
        OSError: the port is taken.
    """
    mock = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    broker = next(iter(mock.list_topics(timeout=10).brokers.values()))
    tasks: set[asyncio.Task] = set()  # the loop itself keeps only weak references

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection(broker.host, broker.port)
            await asyncio.gather(_copy(reader, upstream_writer), _copy(upstream_reader, writer))
        finally:
            tasks.discard(asyncio.current_task())

    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    server = await asyncio.start_server(forward, host, port)
    print(f"memory broker on {host}:{port}, in front of {broker.host}:{broker.port}", flush=True)
    await stopping.wait()
    server.close()
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    try:
        asyncio.run(serve(arguments.host, arguments.port))
    except OSError as error:
        print(f"error: memory broker '{arguments.host}:{arguments.port}': {error.strerror}.", file=sys.stderr)
        sys.exit(2)
