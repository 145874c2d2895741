"""Apache Kafka for the local stack: one broker from Maven Central's jars, without a download page or a container.

``python -m paystream.devstack.kafka_broker`` runs one for a moment and archives the classes that Java loads: a
later start takes half as long.
"""

import socket
import subprocess
import tempfile
import time
import uuid
from base64 import urlsafe_b64encode
from contextlib import suppress
from pathlib import Path

from paystream.devstack import maven
from paystream.devstack.ports import free_ports
from paystream.errors import PaystreamError

POM = Path(__file__).with_name("pom.xml")
FORMAT_TIMEOUT_S = 60
_ARCHIVE = "classes.jsa"

# Measured at 5,000 messages a second and with 1,000,000 produced and read back: 190 MB resident, against 220 MB with
# the optimising compiler and 270 MB with G1 on top; the fastest start and the least processor time of the three.
JVM_OPTIONS = ("-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+ExitOnOutOfMemoryError")

SERVER_PROPERTIES = """\
# Written by `paystream up` at every start.
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
# Relative to the folder the broker runs in, so that no character of the path needs escaping.
log.dirs=data
# A mistyped topic must be an error, not a new topic with one partition.
auto.create.topics.enable=false
num.partitions=4
# One broker: everything that is replicated elsewhere has one copy here.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
# No second consumer is about to join, so the first need not wait for it.
group.initial.rebalance.delay.ms=0
# After kill -9 the broker cannot register again before its old session ends: 9 s by default.
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
# At most about 1 GiB a partition and a day, in segments small enough that deleting makes a difference.
log.segment.bytes=67108864
log.retention.bytes=1073741824
log.retention.hours=24
# Sized for one developer's machine.
num.network.threads=2
num.io.threads=4
background.threads=2
group.coordinator.threads=1
share.coordinator.threads=1
log.cleaner.dedupe.buffer.size=4194304
"""

LOG4J_PROPERTIES = """\
# Written by `paystream up` at every start: at most two files of 5 MB.
status=error
appender.file.type=RollingFile
appender.file.name=file
appender.file.fileName=../logs/kafka.log
appender.file.filePattern=../logs/kafka.log.%i
appender.file.layout.type=PatternLayout
appender.file.layout.pattern=%d{yyyy-MM-dd'T'HH:mm:ss.SSSXXX}{UTC} %p %m (%c)%n
appender.file.policies.type=SizeBasedTriggeringPolicy
appender.file.policies.size=5MB
appender.file.strategy.type=DefaultRolloverStrategy
appender.file.strategy.max=1
rootLogger.level=info
rootLogger.appenderRef.file.ref=file
# Hundreds of lines that repeat server.properties and its defaults.
logger.config.name=org.apache.kafka.common.config
logger.config.level=warn
"""


def prepare(home: Path, host: str, port: int, controller_port: int) -> list[str]:
    """Write the broker's configuration, format its storage on first use, and return the command that runs it.

    The command must run in ``<home>/kafka``. Data of an earlier run, however it ended, is kept and served again.

    Raises:
        UsageError: Java or Maven is missing.
        ServiceUnavailable: the jars cannot be fetched.
        PaystreamError: the storage cannot be formatted.
    """
    run = [maven.find_java(), *JVM_OPTIONS, "-Dlog4j2.configurationFile=log4j2.properties"]
    jars = maven.ensure_jars(POM)
    if (jars / _ARCHIVE).exists():  # a Java other than the one that wrote it ignores it
        run += [f"-XX:SharedArchiveFile={jars / _ARCHIVE}", "-Xshare:auto", "-Xlog:disable"]
    run += ["-cp", f"{jars}/*"]
    folder = home / "kafka"
    folder.mkdir(parents=True, exist_ok=True)
    properties = folder / "server.properties"
    properties.write_text(SERVER_PROPERTIES.format(host=host, port=port, controller_port=controller_port))
    (folder / "log4j2.properties").write_text(LOG4J_PROPERTIES)
    if not (folder / "data" / "meta.properties").exists():
        cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "_")
        done = subprocess.run(
            [*run, "kafka.tools.StorageTool", "format", "--cluster-id", cluster_id, "--config", str(properties)],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=FORMAT_TIMEOUT_S,
        )
        if done.returncode != 0:
            cause = (done.stderr.strip() or done.stdout.strip() or f"code {done.returncode}").splitlines()[-1]
            raise PaystreamError(
                f"Kafka's storage '{folder / 'data'}' cannot be formatted: {cause.rstrip('.')}. "
                "Check that the folder is writable, or set PAYSTREAM_HOME to another one."
            )
    return [*run, "kafka.Kafka", str(properties)]


def archive_classes() -> None:
    """Archive the classes that a broker loads beside its jars, for ``prepare``, whose errors it raises as well."""
    archive = maven.ensure_jars(POM) / _ARCHIVE
    if archive.exists():
        return
    with tempfile.TemporaryDirectory(prefix="paystream-broker-") as home:
        port, controller_port = free_ports(2)
        java, *arguments = prepare(Path(home), "127.0.0.1", port, controller_port)
        draft = archive.with_suffix(f".{uuid.uuid4().hex[:8]}")
        command = [java, f"-XX:ArchiveClassesAtExit={draft}", "-Xlog:disable", *arguments]
        silent = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        process = subprocess.Popen(command, cwd=Path(home) / "kafka", **silent)
        try:
            deadline = time.monotonic() + FORMAT_TIMEOUT_S
            while process.poll() is None and time.monotonic() < deadline:
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                time.sleep(0.1)
            process.terminate()
            process.wait(FORMAT_TIMEOUT_S)
            draft.rename(archive)
        except (subprocess.TimeoutExpired, FileNotFoundError):
            pass  # a start takes longer, and that is all
        finally:
            process.kill()
            process.wait()
            draft.unlink(missing_ok=True)


if __name__ == "__main__":
    archive_classes()
