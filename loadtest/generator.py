"""The generator: a process of its own that sends message i at its intended time, whatever the pipeline does.

Parent and child speak JSON lines over the child's stdin and stdout:
request (plan, Kafka settings, topic) → ``{"ready": true}`` → ``{"started_us": …}`` → ``{"sent": …}`` every half second
→ ``{"sent": …, "result": …}``. One more line on stdin ends the sending early; the child ends when its stdin closes, so
it cannot outlive the parent.
"""

import contextlib
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import orjson
from confluent_kafka import KafkaException, Producer

from paystream.errors import PaystreamError, ServiceUnavailable
from paystream.loadtest.messages import render
from paystream.loadtest.milliseconds import Milliseconds
from paystream.loadtest.plan import Plan, due, intended_us

READY_TIMEOUT_S = 30
RENDER_AHEAD_S = 0.25
GIVE_UP_AFTER_S = 30
"""How long after the intended end a generator that is behind keeps sending."""

DELIVERY_TIMEOUT_S = 30
REPORT_EVERY_S = 0.5
SHORTEST_ROUND_S = 0.005
"""At high rates, what came due in the meantime is sent in one go: going round for each message costs more than sending
it. A generator that is behind does not pause."""


@dataclass(frozen=True)
class Sent:
    """What the generator did. ``sent`` counts messages handed to the producer, in order from number 0.

    ``rejected_keys`` holds one transaction id for each message that the broker did not confirm. ``wire_bytes_each``:
    what the producer sent to brokers for each message, NaN of a run of less than a second.
    """

    sent: int
    planned: int
    rejected_keys: list[str]
    first_error: str
    queue_full: int
    lateness_p50_s: float
    lateness_p99_s: float
    lateness_max_s: float
    cpu_s: float
    wire_bytes_each: float = float("nan")


# In the child


def main() -> None:
    """Serve one run over stdin and stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent decides
    line = sys.stdin.buffer.readline()
    if not line:
        return  # the parent has gone before it said what to send
    request = orjson.loads(line)
    plan = Plan(**request["plan"])
    try:
        producer = _Producer(request["kafka"], request["topic"])
        render(plan, np.arange(min(plan.messages, 100)))
        _say({"ready": True})
        line = sys.stdin.buffer.readline()
        if not line:
            return
        plan = Plan(**request["plan"] | orjson.loads(line))
        stop = threading.Event()
        threading.Thread(target=_heed_parent, args=(stop,), daemon=True).start()
        result = _send(plan, producer, stop)
        _say({"sent": result.sent, "result": asdict(result)})
    except KafkaException as error:
        _say({"error": error.args[0].str()})


class _Producer:
    """A Kafka producer that keeps the keys of messages that were not confirmed."""

    def __init__(self, config: dict[str, str], topic: str) -> None:
        self.topic = topic
        self.rejected: list[str] = []
        self.first_error = ""
        self.wire_bytes_each = float("nan")
        self.kafka = Producer(
            config
            | {
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 5,
                "compression.type": "lz4",
                "delivery.timeout.ms": DELIVERY_TIMEOUT_S * 1000,
                "queue.buffering.max.messages": 500_000,
                # Silence means confirmed. A callback for each message would cost more than sending it.
                "delivery.report.only.error": True,
                "on_delivery": self._not_delivered,
                "statistics.interval.ms": 1000,
                "stats_cb": self._take_statistics,
                "log_level": 0,
            }
        )
        self.kafka.list_topics(timeout=READY_TIMEOUT_S / 2)

    def _not_delivered(self, error: Any, message: Any) -> None:
        self.first_error = self.first_error or error.str()
        self.rejected.append(message.key().decode())

    def _take_statistics(self, text: str) -> None:
        """Note the bytes on the wire, which only librdkafka knows: it makes and compresses the batches."""
        statistics = orjson.loads(text)
        partitions = statistics["topics"].get(self.topic, {}).get("partitions", {}).values()
        if messages := sum(partition["txmsgs"] for partition in partitions):
            self.wire_bytes_each = sum(broker["txbytes"] for broker in statistics["brokers"].values()) / messages

    def finish(self) -> None:
        """Wait until every message is confirmed or given up, both bounded by the delivery timeout."""
        if self.kafka.flush(DELIVERY_TIMEOUT_S + 5):
            self.kafka.purge()
            self.kafka.flush(5)


def _send(plan: Plan, producer: _Producer, stop: threading.Event) -> Sent:
    lateness = Milliseconds()
    # The wall clock is read once: a clock that is set during the run neither stops nor floods it.
    offset_us = time.time_ns() // 1000 - time.monotonic_ns() // 1000
    chunk = max(1, min(5000, int(plan.peak_rate * RENDER_AHEAD_S / 5)))
    most_ahead = max(chunk, int(plan.peak_rate * RENDER_AHEAD_S))
    keys: list[bytes] = []
    values: list[bytes] = []
    sent = base = queue_full = 0
    give_up_us = int(intended_us(plan, np.array([plan.messages]))[0]) + GIVE_UP_AFTER_S * 1_000_000
    reported = time.monotonic()
    cpu_before_s = time.process_time()

    while sent < plan.messages and not stop.is_set():
        now_us = time.monotonic_ns() // 1000 + offset_us
        if now_us > give_up_us:
            break
        next_round_us = now_us + int(SHORTEST_ROUND_S * 1e6)
        due_now = due(plan, now_us)
        ready = min(due_now, base + len(keys), sent + chunk)
        if ready > sent:
            accepted = sent
            try:
                for place in range(sent - base, ready - base):
                    producer.kafka.produce(producer.topic, values[place], keys[place])
                    accepted += 1
            except BufferError:
                queue_full += 1
                producer.kafka.poll(0.01)
            if accepted > sent:
                now_us = time.monotonic_ns() // 1000 + offset_us
                lateness.add(now_us - intended_us(plan, np.arange(sent, accepted)))
                sent = accepted
        producer.kafka.poll(0)

        if time.monotonic() - reported > REPORT_EVERY_S:
            reported = time.monotonic()
            _say({"sent": sent})
        rendered = base + len(keys)
        if rendered - sent < most_ahead and rendered < plan.messages:
            more_keys, more_values = render(plan, np.arange(rendered, min(rendered + chunk, plan.messages)))
            keys, values, base = keys[sent - base :] + more_keys, values[sent - base :] + more_values, sent
        elif due_now <= sent < plan.messages:
            next_us = max(next_round_us, int(intended_us(plan, np.array([sent]))[0]))
            pause_s = (next_us - time.monotonic_ns() // 1000 - offset_us) / 1e6
            if pause_s > 0:
                time.sleep(min(pause_s, 0.1))
    producer.finish()
    return Sent(
        sent=sent,
        planned=plan.messages,
        rejected_keys=producer.rejected,
        first_error=producer.first_error,
        queue_full=queue_full,
        lateness_p50_s=lateness.percentile_s(50),
        lateness_p99_s=lateness.percentile_s(99),
        lateness_max_s=lateness.longest_s,
        cpu_s=time.process_time() - cpu_before_s,
        wire_bytes_each=producer.wire_bytes_each,
    )


def _heed_parent(stop: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 100):
        stop.set()
    os._exit(1)


def _say(message: dict[str, Any]) -> None:
    sys.stdout.buffer.write(orjson.dumps(message) + b"\n")
    sys.stdout.buffer.flush()


# In the parent


class Generator:
    """The generator's process, seen from the one that started it. Leaving the ``with`` block ends it."""

    def __init__(self, plan: Plan, kafka: dict[str, str], topic: str) -> None:
        self.sent = 0
        self.result: Sent | None = None
        self._replies: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        # A session of its own, so that Ctrl-C reaches it only through us.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "paystream.loadtest.generator"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()
        self._tell({"plan": plan.as_dict(), "kafka": kafka, "topic": topic})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    def wait_ready(self) -> None:
        """Wait until it has reached the broker.

        Raises:
            ServiceUnavailable: it did not within half a minute.
        """
        if not self._take(READY_TIMEOUT_S):
            raise ServiceUnavailable(
                f"Load generator: the broker did not answer it within {READY_TIMEOUT_S} s. "
                "Check that the brokers' advertised addresses can be reached from here."
            )

    def start(self, started_us: int) -> None:
        """Let it send message 0 at this time, in microseconds since 1970, and the others after it."""
        self._tell({"started_us": started_us})

    def stop(self) -> None:
        """Stop the sending; the result follows once the broker has confirmed or refused what was sent."""
        self._tell({"stop": True})

    def wait(self, timeout_s: float) -> None:
        """Update ``sent`` and ``result`` from its reports for so long; return at once when there is a result.

        Raises:
            ServiceUnavailable: Kafka failed in a way that no retry mends.
            PaystreamError: the generator's process ended without a result.
        """
        deadline = time.monotonic() + timeout_s
        while self.result is None and (left_s := deadline - time.monotonic()) > 0:
            self._take(left_s)

    def _take(self, timeout_s: float) -> bool:
        try:
            reply = self._replies.get(timeout=timeout_s)
        except queue.Empty:
            return False
        if reply is None:
            raise PaystreamError(
                f"Load generator: its process ended with code {self._process.wait()} in the middle of the run. "
                "Read what it printed above."
            )
        if "error" in reply:
            raise ServiceUnavailable(
                f"Load generator: Kafka failed for good: {reply['error']}. Check the broker, then run again."
            )
        self.sent = reply.get("sent", self.sent)
        if "result" in reply:
            result = {name: math.nan if value is None else value for name, value in reply["result"].items()}
            self.result = Sent(**result)
        return True

    def _tell(self, message: dict[str, Any]) -> None:
        # A child that has died is reported by the next wait.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(orjson.dumps(message) + b"\n")
            self._process.stdin.flush()

    def _listen(self) -> None:
        for line in self._process.stdout:
            self._replies.put(orjson.loads(line))
        self._replies.put(None)


if __name__ == "__main__":
    main()
