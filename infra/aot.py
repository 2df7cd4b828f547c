"""The JVM's ahead-of-time cache for Kafka: classes loaded and linked in advance, which halves the time that it takes to start.

    python -m infra.aot             make it, if it is not there

Made once per set of jars and JVM by a training run of the server, beside the jars. The JVM ignores a cache that does
not fit, and starts without one as well.
"""

import sys
import tempfile
import time
from pathlib import Path

from infra import kafka_server, ports, processes
from pipeline.errors import UserError

TRAINING_SECONDS = 120.0
POLL_SECONDS = 0.1


def make() -> Path:
    """The cache; TimeoutError if the training run did not come to an end."""
    cache = kafka_server.aot_cache()
    if not cache.exists():
        with tempfile.TemporaryDirectory(dir=cache.parent, prefix="train-") as scratch:
            _train(Path(scratch)).replace(cache)
    return cache


def _train(directory: Path) -> Path:
    """Start a server on scratch data and stop it: at its exit the JVM writes what it has learnt."""
    made = directory / "kafka.aot"
    port = ports.choose(())
    command = kafka_server.prepare(directory, directory / "kafka.log", port, ports.choose((port,)), training=made)
    server = processes.spawn(command, directory / "kafka.out", {}, ends_with_parent=True)
    deadline = time.monotonic() + TRAINING_SECONDS
    while not kafka_server.answers(port):
        if time.monotonic() > deadline or not server.is_running():
            processes.stop([server])
            raise TimeoutError((directory / "kafka.out").read_text(errors="replace"))
        time.sleep(POLL_SECONDS)
    processes.stop([server], seconds=TRAINING_SECONDS)
    if not made.exists():
        raise TimeoutError((directory / "kafka.out").read_text(errors="replace"))
    return made


def main() -> int:
    """0 always but for a user's mistake: without the cache everything works, only later."""
    try:
        print(f"Kafka starts faster with {make()}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except TimeoutError as error:
        print(f"warning: no ahead-of-time cache for Kafka, it will take longer to start. The JVM said: {error}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
