"""What the demo prints at its end."""

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from confluent_kafka import KafkaError, TopicPartition

from infra.demo.nasa import SITE
from infra.demo.script import EMAIL, Script
from pipeline import output
from pipeline.adapters import clickhouse, kafka
from pipeline.adapters.contracts import RAW_TOPICS, load_topics
from pipeline.settings import Settings
from pipeline.timelines import Timeline, in_words

_VIEWS = ("events", "sessions", "contacts", "links", "failed_events")


def show(settings: Settings, scenes: Script, before: Timeline, after: Timeline) -> None:
    """Counts in and out of each part, what the examples came to, and one contact's timeline."""
    records = count_records(settings)
    rows = count_rows(settings)
    print()
    output.print_table(("part", "#records in", "of", "#records out", "of"), _by_part(records, rows), title="What went in and came out")
    print()
    output.print_table(("portal", "example of the identity rules", "contacts", "links"), _examples(settings, scenes), title="The visitors")
    print(f"\nA reader of the log, before the form ({len(before)} events, nobody's):\n")
    _show_timeline(before)
    print(f"\nThe same after the form: the history is {EMAIL}'s ({len(after)} events):\n")
    _show_timeline(after)


def _show_timeline(timeline: Timeline) -> None:
    """As `timeline` does, but with the rule in place of the reason, and without the site."""
    rows = [
        (at, what, where.removeprefix(SITE), session, entry.email or "nobody", entry.rule)
        for (at, what, where, session, _), entry in zip(in_words(timeline), timeline, strict=True)
    ]
    output.print_table(("time (UTC)", "what", "where", "#session", "whose", "rule"), rows)


def show_measures(visible_after_s: Sequence[float], *, equals_resolve: bool, seconds: float) -> None:
    """How long the forms took, and whether the live result is the defined one."""
    print(
        "\nFrom the moment Kafka has a form until its visitor's history is the contact's in ClickHouse:\n"
        f"p50 {statistics.median(visible_after_s):.2f} s, max {max(visible_after_s):.2f} s ({len(visible_after_s)} forms)"
    )
    verdict = "the same" if equals_resolve else "SOMETHING ELSE, which is a bug"
    print(f"ClickHouse says whose every event is, and `resolve` of the same events says {verdict}")
    print(f"All of it took {seconds:.0f} s")


def show_what_next(directory: Path) -> None:
    """Commands for a user who liked it."""
    print(
        f"""
What to try next:
  make demo KEEP=1                                              the same, and it keeps running for your queries
  .venv/bin/python -m pipeline resolve {directory}/events.jsonl   the result by definition, no servers needed
  make up && .venv/bin/python -m pipeline run                   servers that stay, and all parts, for events of your own
"""
    )


def show_addresses(settings: Settings, directory: Path) -> None:
    """Where everything is, and three queries to copy."""
    at = clickhouse_http(directory)
    contact = (
        f"SELECT occurred_at, type, url, session_number, rule FROM timeline WHERE portal_id = 1 AND email = '{EMAIL}' ORDER BY occurred_at"
    )
    sources = "SELECT entry_url, count() AS sessions FROM sessions WHERE portal_id = 1 GROUP BY entry_url ORDER BY sessions DESC LIMIT 5"
    possibly = "SELECT portal_id, utk, status, contact_id, valid_from, valid_to, rule FROM links ORDER BY portal_id, utk, valid_from"
    curl = f"curl '{at}/?database={settings.clickhouse.database}&default_format=PrettyCompact' --data-binary"
    print(
        f"""
Everything keeps running; Ctrl-C stops it.
  Kafka       {settings.kafka.bootstrap_servers}
  ClickHouse  {settings.clickhouse.host}:{settings.clickhouse.port} (native), {at} (HTTP, read-only user)
  log         {directory}/run.log

Three queries:
  {curl} "{contact}"
  {curl} "{sources}"
  {curl} "{possibly}"

And in another terminal:
  export PIPELINE_DATA_DIR={directory}
  .venv/bin/python -m pipeline timeline --portal 1 --email {EMAIL}
  .venv/bin/python -m pipeline status
"""
    )


def count_records(settings: Settings) -> dict[str, int]:
    """Records of every topic that a reader sees, by the topic's name in topics/*.yaml."""
    names = {kafka.topic_name(settings, name): name for name in load_topics()}
    places = [TopicPartition(name, number, 0) for name, topic in names.items() for number in range(load_topics()[topic].partitions)]
    consumer = kafka.consumer(settings, None, **{"enable.partition.eof": True})
    consumer.assign(places)
    counts, unread = dict.fromkeys(names.values(), 0), len(places)
    while unread:
        for message in consumer.consume(10_000, timeout=0.1):
            error = message.error()
            if error is None:
                counts[names[str(message.topic())]] += 1
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
                unread -= 1
    consumer.close()
    return counts


def count_rows(settings: Settings) -> dict[str, int]:
    """Rows of the views."""
    client = clickhouse.connect(settings)
    return {view: client.execute(f"SELECT count() FROM {view}")[0][0] for view in _VIEWS}


def _by_part(records: dict[str, int], rows: dict[str, int]) -> Iterable[Sequence[object]]:
    """A topic with several producers counts for the first of them."""
    left = {name: topic for name, topic in load_topics().items() if not name.endswith("-changelog")}
    for part in ("publish", "sessionize", "identify", "record"):
        read = {name: records[name] for name, topic in load_topics().items() if part in topic.consumers and topic.internal is None}
        wrote = {name: records[name] for name, topic in left.items() if part in topic.producers}
        left = {name: topic for name, topic in left.items() if name not in wrote}
        if part == "record":
            wrote |= {f"rows of {view}": count for view, count in rows.items()}
        yield part, sum(read.values()) or "", _listed(read), sum(wrote.values()), _listed(wrote)


def _listed(counts: dict[str, int]) -> str:
    if set(counts) >= set(RAW_TOPICS.values()):
        raw = sum(counts[topic] for topic in RAW_TOPICS.values())
        counts = {"raw topics": raw} | {name: count for name, count in counts.items() if name not in RAW_TOPICS.values()}
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)


def _examples(settings: Settings, scenes: Script) -> Iterable[Sequence[object]]:
    client = clickhouse.connect(settings)
    for portal, title in scenes.examples.items():
        contacts = client.execute("SELECT email FROM contacts WHERE portal_id = %(portal)s ORDER BY created_at, email", {"portal": portal})
        links = client.execute(
            "SELECT rule, count() FROM links WHERE portal_id = %(portal)s GROUP BY rule ORDER BY rule", {"portal": portal}
        )
        yield (
            portal,
            title,
            ", ".join(email or "(no address)" for (email,) in contacts),
            ", ".join(f"{count} {rule}" for rule, count in links),
        )


def clickhouse_http(directory: Path) -> str:
    """Address of the HTTP interface with the analyst's name and password."""
    server = json.loads((directory / "servers.json").read_text(encoding="utf-8"))["clickhouse"]
    return f"http://{server['analyst_user']}:{server['analyst_password']}@{server['host']}:{server['http_port']}"
