"""Second stage: what was read -> sessions, contacts, links and owners; in Kafka, with the state of the workers, and in ClickHouse.

Each unit is one partition of a changelog, bucket by bucket; some buckets are a transaction of outputs and items. The offsets applied come
with the last transaction, so state that is not whole says of no record that it has it. Rows have version 0: all that live
workers write later about the same thing has a higher offset.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import polars as pl

from pipeline.adapters import derived_rows
from pipeline.adapters.changelog import Changelog, Output
from pipeline.adapters.topic_ids import topic_ids
from pipeline.agents import identify, sessionize
from pipeline.agents.decoding import Arrived
from pipeline.agents.identify import EVIDENCE, Portals
from pipeline.agents.policy_mark import PolicyMark
from pipeline.bulk import activity, spill
from pipeline.bulk.crew import report
from pipeline.bulk.neighbours import Neighbours, batches, commit, neighbours
from pipeline.bulk.spill import Spill
from pipeline.bulk.workspace import Plan
from pipeline.core.sessions import Retention
from pipeline.history.history import Changed, History

EVIDENCE_ROWS = 10_000
"""About so much evidence of portals is in memory at once, for each process; a portal with more is in memory as a whole."""
_PORTAL_ROWS = 5_000
"""About so much evidence becomes state and outputs together; a portal stays whole."""
_INSERT_ROWS = 50_000
_SESSION_ROWS = 20_000
"""About so many rows of a derived topic are written together."""


def sessionize_partition(plan: Plan, partition: int, applied: dict[str, int], messages: int, size: int) -> None:
    """The cookies of a partition; `applied` are the last offsets of its sources. Reports its share of the raw `messages` and bytes."""
    settings, buckets = plan.settings, plan.buckets(partition)
    retention = Retention(settings.sessions.retention, settings.sessions.max_events_per_cookie)
    next_block = 1
    changelog = Changelog(settings, "sessionize", sessionize.TABLE, partition)
    changelog.fence()
    with neighbours(settings) as at:
        written = _Sessions(at, changelog)
        for bucket in range(buckets):
            rows = spill.read([plan.spill(f"{topic}-{partition}") for topic in sessionize.SOURCES], bucket)
            if rows is not None:
                history = History(plan.policy.sessions, retention, next_block)
                written.add(history, history.add(activity.arrivals(rows, at.registry)))
                next_block = history.next_block
            report(_share(messages, bucket, buckets), _share(size, bucket, buckets))
        written.flush()
    commit(changelog, [], PolicyMark(plan.policy.sessions, "[sessions]").changes(), applied, topic_ids(settings, applied))
    changelog.close()


def identify_partition(plan: Plan, partition: int, until: int) -> None:
    """The portals of a partition of `identity-evidence`, which ends at `until`."""
    settings = plan.settings
    directory, buckets = plan.spill(f"{EVIDENCE}-{partition}"), 1 + until // EVIDENCE_ROWS
    spilled = Spill(directory, "portal_id", buckets)
    changelog = Changelog(settings, "identify", identify.TABLE, partition)
    changelog.fence()
    with neighbours(settings) as at:
        for messages in batches(settings, (EVIDENCE, partition), 0, until):
            portals = [int(message.key() or 0) for message in messages]  # its key, which only we write (identify.route_key)
            values = [message.value() for message in messages]
            spilled.write(pl.DataFrame({"portal_id": portals, "value": values}, {"portal_id": pl.Int64, "value": pl.Binary}))
        spilled.close()
        for bucket in range(buckets):
            rows = spill.read([directory], bucket)
            for of_portals in _by_portal(rows) if rows is not None else ():
                _write_portals(at, changelog, of_portals, Portals(plan.policy.identity, at.registry.encode))
    commit(changelog, [], PolicyMark(plan.policy.identity, "[identity]").changes(), {EVIDENCE: until - 1}, topic_ids(settings, [EVIDENCE]))
    changelog.close()


def _share(whole: int, part: int, parts: int) -> int:
    """The parts together are the whole."""
    return whole * (part + 1) // parts - whole * part // parts


class _Sessions:
    """Sessions and state of several buckets, which are written together: a transaction and an INSERT take tens of milliseconds however
    small they are.
    """

    def __init__(self, at: Neighbours, changelog: Changelog) -> None:
        self._at = at
        self._changelog = changelog
        self._frames: list[pl.DataFrame] = []
        self._items: dict[bytes, bytes | None] = {}

    def add(self, history: History, changed: Changed) -> None:
        self._frames.append(sessionize.frame(history, changed))
        self._items |= changed.items
        if sum(map(len, self._frames)) >= _SESSION_ROWS:
            self.flush()

    def flush(self) -> None:
        if not self._frames:
            return
        sessions = pl.concat(self._frames, rechunk=True)
        commit(self._changelog, list(sessionize.session_records(sessions, self._at.registry.encode_frame)), self._items)
        self._at.clickhouse.call(lambda client: derived_rows.insert_frame(client, "sessions", sessions, version=0))
        self._frames, self._items = [], {}


def _by_portal(rows: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Whole portals, small ones together."""
    together: list[pl.DataFrame] = []
    for portal in rows.partition_by("portal_id"):
        together.append(portal)
        if sum(map(len, together)) >= _PORTAL_ROWS:
            yield pl.concat(together)
            together = []
    if together:
        yield pl.concat(together)


def _write_portals(at: Neighbours, changelog: Changelog, rows: pl.DataFrame, portals: Portals) -> None:
    evidence: list[bytes] = rows["value"].unique().to_list()
    effects = portals.apply([Arrived([None] * len(evidence), at.registry.decode_events(evidence).batches)])
    commit(changelog, effects.outputs, effects.changes)
    for topic, outputs in _by_topic(effects.outputs).items():
        for first in range(0, len(outputs), _INSERT_ROWS):
            _insert(at, topic, outputs[first : first + _INSERT_ROWS])


def _insert(at: Neighbours, topic: str, outputs: Sequence[Output]) -> None:
    keys, values = [output.key for output in outputs], [output.value for output in outputs]
    offsets = [0] * len(outputs)
    at.clickhouse.call(lambda client: derived_rows.insert(client, topic, keys, values, offsets, at.registry.decode_columns))


def _by_topic(outputs: Iterable[Output]) -> dict[str, list[Output]]:
    by_topic: dict[str, list[Output]] = defaultdict(list)
    for output in outputs:
        by_topic[output.topic].append(output)
    return by_topic
