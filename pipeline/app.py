"""READ THIS FIRST: the way of an event, and every part, topic and table on it.

    publish ──► raw topics ──► sessionize ──► sessions ──────────────────────────────────┐
                     │                                                                   │
                     ├───────► identify: route ──► identity-evidence ──► fold ──► contacts, identity-links, evidence-owners
                     │                                                                   │
                     └───────────────────────────────────────────────────────────────────┴──► record ──► ClickHouse: tables, views
                    event-copies ◄── copies of one event under another key, retractions ──────┤
                                     dead-letters ◄── records that are no events, with reason ┘

* `pipeline/core/` says what all of it means, as pure functions: `sessions`, `identity`, `timeline` (spec: docs/spec).
  `pipeline/resolve.py` is the same on a file; whatever the workers do must come to its result. `pipeline/history/` is sessions in columns,
  batch by batch, for `sessionize` and for a rebuild (no I/O in it either).
* `publish` (files) and the collector (browsers, forms and mails: `pipeline/edge/`) write the raw topics.
* A part is a consumer group of its own, one or more processes. One that is down holds up nobody but itself.
* Raw topics are the source of truth and kept for ever. Everything else can be computed again from them (pipeline/bulk/rebuild.py).
* All of it, from the raw topics on, is a *generation*: `replay` builds another one beside it under names of its own (pipeline/replay).
* At least once everywhere; state is a set of events, so a record that comes twice changes nothing. Order on every hop: write what
  follows, flush, then commit the offsets. State and outputs of a stateful part are one Kafka transaction (adapters/changelog.py).
* Meaning is a join: event rows in ClickHouse have no session and no contact. Sessions and links are intervals of a cookie's
  time; the views join them (infra/clickhouse/migrations), so a late event or another owner rewrites no event.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.settings import Settings

RAW_TOPICS = (
    "page-views",
    "email-clicks",
    "form-submissions",
    "identifies",
    "custom-events",
    "contact-imports",
    "retractions",
    "contact-merges",
)
"""What producers write, keyed by utk (event id without one); the contracts are topics/*.yaml and schemas/*.avsc."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part: what it reads and writes, and how a process of it runs (until a signal; returns the exit code)."""

    name: str
    purpose: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    run: Callable[[Settings], int]


def _sessionize(settings: Settings) -> int:
    from pipeline.agents.sessionize import sessionize
    from pipeline.agents.worker import run_worker

    return run_worker(sessionize(settings))


def _identify(settings: Settings) -> int:
    from pipeline.agents.identify import identify
    from pipeline.agents.worker import run_worker

    return run_worker(identify(settings))


def _record(settings: Settings) -> int:
    from pipeline.record import run

    return run(settings)


PARTS = (
    Part(
        "sessionize",
        "cuts each cookie's activity into sessions",
        reads=("page-views", "email-clicks", "form-submissions", "identifies", "custom-events", "event-copies"),
        writes=("sessions", "sessionize-visitors-changelog"),
        run=_sessionize,
    ),
    Part(
        "identify",
        "works out who is who: brings a portal's evidence together, and folds it",
        reads=("email-clicks", "form-submissions", "identifies", "contact-imports", "retractions", "contact-merges", "identity-evidence"),
        writes=("identity-evidence", "contacts", "identity-links", "evidence-owners", "identify-identities-changelog"),
        run=_identify,
    ),
    Part(
        "record",
        "puts everything into ClickHouse, and what is no event among the dead letters",
        reads=(*RAW_TOPICS, "sessions", "contacts", "identity-links", "evidence-owners", "dead-letters"),
        writes=("dead-letters", "event-copies", "identity-evidence"),
        run=_record,
    ),
)
ROLES = tuple(part.name for part in PARTS)


def run_part(settings: Settings, name: str) -> int:
    """Runs one process of a part, in this one."""
    return next(part for part in PARTS if part.name == name).run(settings)
