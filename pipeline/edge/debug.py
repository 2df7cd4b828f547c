"""`python -m pipeline debug`: a portal's events as they are accepted, read from the raw topics from now on.

For the operator's own eyes: what is shown is personal.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec
from confluent_kafka import OFFSET_END, TopicPartition

from pipeline.adapters import kafka
from pipeline.adapters.avro import Registry
from pipeline.adapters.contracts import RAW_TOPICS
from pipeline.core.events import CustomEvent, EmailClick, Event, FormSubmission, Identify, PageView
from pipeline.settings import Settings


def accepted(settings: Settings, portal: int) -> Iterator[Event]:
    """Events of a portal from now on, for ever. UserError if Kafka is not there."""
    there = kafka.reach(settings).topics
    names = [kafka.topic_name(settings, topic) for topic in RAW_TOPICS.values()]
    consumer = kafka.consumer(settings)
    consumer.assign([TopicPartition(name, number, OFFSET_END) for name in names if name in there for number in there[name].partitions])
    registry = Registry(settings, wait_s=30)
    while True:
        messages = [message for message in consumer.consume(500, timeout=0.5) if message.error() is None]
        for batch in registry.decode_events([message.value() for message in messages]).batches:
            yield from (event for event in batch.events() if event.portal_id == portal)


def in_words(event: Event) -> str:
    """A line for a terminal."""
    at = datetime.fromtimestamp(event.occurred_at / 1000, UTC)
    return f"{at:%H:%M:%S}  {event.type:<15}  {event.utk or '-':<32}  {_what(event)}"


def _what(event: Event) -> str:
    match event:
        case PageView():
            return f"{event.url} {event.properties or ''}".rstrip()
        case FormSubmission():
            return f"{event.form_id} {event.email or ''} {event.page_url or ''}".rstrip()
        case EmailClick():
            return f"{event.recipient_email} {event.send_id} {'bot ' if event.bot else ''}{event.url}"
        case Identify():
            return f"{event.email or ''} {event.external_id or ''}".strip()
        case CustomEvent():
            return f"{event.name} {event.properties or ''}".rstrip()
    return ""


def as_json(event: Event) -> str:
    return json.dumps({"type": event.type} | msgspec.structs.asdict(event), ensure_ascii=False)
