"""Topics that somebody deletes."""

import time

from pipeline.adapters import kafka
from pipeline.settings import Settings


def delete_topic(settings: Settings, topic: str) -> None:
    """Returns when the broker has forgotten it."""
    name = kafka.topic_name(settings, topic)
    admin = kafka.admin(settings)
    admin.delete_topics([name])[name].result(timeout=30)
    deadline = time.monotonic() + 30
    while name in kafka.reach(settings).topics:
        assert time.monotonic() < deadline, f"{name} is still there"
        time.sleep(0.1)
