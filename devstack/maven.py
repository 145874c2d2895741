"""Jars from Maven Central, as a pom.xml names them. ``python -m paystream.devstack.maven POM`` fetches them early."""

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from platformdirs import user_cache_path

from paystream.errors import PaystreamError, ServiceUnavailable, UsageError
from paystream.project import CHECKOUT

OLDEST_JAVA = 17
FETCH_TIMEOUT_S = 300


def find_java() -> str:
    """Return the path of a Java that is new enough.

    Raises:
        UsageError: there is no ``java`` on the PATH, or it is too old.
    """
    java = shutil.which("java")
    advice = f"Install Java {OLDEST_JAVA} or newer."
    if java is None:
        raise UsageError(f"Java: there is no `java` on the PATH. {advice}")
    try:
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30).stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"Java: `{java} -version` failed: {error}. {advice}") from error
    version = re.search(r'version "(?:1\.)?(\d+)', answer)
    if version is None or int(version[1]) < OLDEST_JAVA:
        version_text = f"Java {version[1]}" if version else "no working Java"
        raise UsageError(f"Java: '{java}' is {version_text}. {advice}")
    return java


def jars_folder(pom: Path) -> Path:
    """Return where the jars belong: a folder named after the content of the file, so that an edit fetches again."""
    text = pom.read_bytes()
    name = re.search(rb"<artifactId>([^<]+)<", text)[1].decode()
    # The repository's own, where it runs from one; else what all projects of this user share.
    base = CHECKOUT / "build" if CHECKOUT else user_cache_path("paystream")
    return base / f"{name}-{hashlib.sha256(text).hexdigest()[:8]}"


def missing(pom: Path) -> str | None:
    """Return what this machine lacks to run these jars and how to get it, or None."""
    try:
        find_java()
    except UsageError as error:
        return str(error)
    if not jars_folder(pom).is_dir():
        return f"The jars of '{pom.name}' in '{pom.parent}' are not fetched. `paystream up` fetches them, with Maven."
    return None


def ensure_jars(pom: Path) -> Path:
    """Fetch jars from Maven Central unless they are there, and return their folder.

    The folder appears whole or not at all, also when two processes fetch at once. Takes about 5 s once Maven's own
    cache is warm, and at most ``FETCH_TIMEOUT_S`` seconds.

    Raises:
        UsageError: Maven is not installed.
        ServiceUnavailable: Maven could not fetch them.
    """
    folder = jars_folder(pom)
    if folder.is_dir():
        return folder
    maven = shutil.which("mvn")
    if maven is None:
        raise UsageError("Maven: there is no `mvn` on the PATH to fetch jars with. Install Maven.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".jars-", dir=folder.parent) as scratch:
        jars = Path(scratch) / "jars"
        command = [maven, "-q", "-B", "-f", str(pom), "-Daether.connector.connectTimeout=10000"]
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
    return ServiceUnavailable(f"Jars from Maven Central: {shown.rstrip('.')}. Check the network and run it again.")


if __name__ == "__main__":
    try:
        find_java()
        for name in sys.argv[1:]:
            print(f"Jars of {name}: {ensure_jars(Path(name))}")
    except PaystreamError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
