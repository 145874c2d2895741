"""Apache Kafka for the local stack: one broker from Maven Central's jars, without a download page or a container.

``python -m devstack.kafka_broker fetch`` fetches the jars ahead of time.
"""

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

from paystream.errors import PaystreamError, ServiceUnavailable, UsageError
from paystream.settings import REPOSITORY

POM = Path(__file__).with_name("pom.xml")
OLDEST_JAVA = 17
FETCH_TIMEOUT_S = 300
FORMAT_TIMEOUT_S = 60

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


def jars_folder() -> Path:
    """Return where the jars belong: one folder for each content of ``pom.xml``, so that editing it fetches again."""
    text = POM.read_bytes()
    version = re.search(rb"<kafka\.version>([^<]+)<", text)[1].decode()
    return REPOSITORY / "build" / f"kafka-{version}-{hashlib.sha256(text).hexdigest()[:8]}"


def missing() -> str | None:
    """Return what Apache Kafka lacks on this machine and how to get it, or None when it can be started at once."""
    try:
        find_java()
    except UsageError as error:
        return str(error)
    if not jars_folder().is_dir():
        return "Broker jars: not fetched yet. Run `make setup`, which needs Maven and Maven Central."
    return None


def find_java() -> str:
    """Return the path of a Java that Kafka runs on.

    Raises:
        UsageError: there is no ``java`` on the PATH, or it is too old.
    """
    java = shutil.which("java")
    advice = f"Install Java {OLDEST_JAVA} or newer, or use `paystream up --broker memory`."
    if java is None:
        raise UsageError(f"Apache Kafka: there is no `java` on the PATH. {advice}")
    try:
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30).stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"Apache Kafka: `{java} -version` failed: {error}. {advice}") from error
    version = re.search(r'version "(?:1\.)?(\d+)', answer)
    if version is None or int(version[1]) < OLDEST_JAVA:
        found = f"Java {version[1]}" if version else "no working Java"
        raise UsageError(f"Apache Kafka: '{java}' is {found}. {advice}")
    return java


def ensure_jars() -> Path:
    """Fetch the broker's jars from Maven Central unless they are there, and return their folder.

    The folder appears whole or not at all, also when two processes fetch at once. Takes about 5 s once Maven's own
    cache is warm, and at most ``FETCH_TIMEOUT_S`` seconds.

    Raises:
        UsageError: Maven is not installed.
        ServiceUnavailable: Maven could not fetch them.
    """
    folder = jars_folder()
    if folder.is_dir():
        return folder
    maven = shutil.which("mvn")
    if maven is None:
        raise UsageError(
            "Broker jars: there is no `mvn` on the PATH to fetch them with. "
            "Install Maven, or use `paystream up --broker memory`."
        )
    folder.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".kafka-", dir=folder.parent) as scratch:
        jars = Path(scratch) / "jars"
        command = [maven, "-q", "-B", "-f", str(POM), "-Daether.connector.connectTimeout=10000"]
        command += ["org.apache.maven.plugins:maven-dependency-plugin:copy-dependencies"]
        command += ["-DincludeScope=runtime", f"-DoutputDirectory={jars}"]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S
            )
        except subprocess.TimeoutExpired as error:
            raise _fetch_failed(f"Maven was not done after {FETCH_TIMEOUT_S} s") from error
        if done.returncode != 0 or not jars.is_dir():
            complaints = re.findall(r"\[ERROR\]\s*(\S.*)", re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr))
            raise _fetch_failed(
                complaints[0].removesuffix(" -> [Help 1]") if complaints else f"Maven ended with code {done.returncode}"
            )
        try:
            jars.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was faster, with the same content
                raise
    return folder


def _fetch_failed(cause: str) -> ServiceUnavailable:
    # Maven nests its causes, the innermost last.
    shown = cause if len(cause) <= 250 else f"… {cause[-250:]}"
    return ServiceUnavailable(
        f"Broker jars from Maven Central: {shown.rstrip('.')}. "
        "Check the network and run `make setup` again, or use `paystream up --broker memory`."
    )


def prepare(home: Path, host: str, port: int, controller_port: int) -> list[str]:
    """Write the broker's configuration, format its storage on first use, and return the command that runs it.

    The command must run in ``<home>/kafka``. Data of an earlier run, however it ended, is kept and served again.

    Raises:
        UsageError: Java or Maven is missing.
        ServiceUnavailable: the jars cannot be fetched.
        PaystreamError: the storage cannot be formatted.
    """
    run = [find_java(), *JVM_OPTIONS, "-Dlog4j2.configurationFile=log4j2.properties", "-cp", f"{ensure_jars()}/*"]
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


if __name__ == "__main__":
    if sys.argv[1:] != ["fetch"]:
        sys.exit("usage: python -m devstack.kafka_broker fetch")
    try:
        find_java()
        print(ensure_jars())
    except PaystreamError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
