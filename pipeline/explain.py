"""`explain`: why an event, a cookie or a contact is whose it is: the chain of evidence (in words: explained_words.py).

Reads the portal's evidence from ClickHouse and folds it as `resolve` does, under the policy in effect and, with `--set`, under another
one too: what would have happened then. Events that have just been published may still be on their way (`status`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clickhouse_driver import Client

from pipeline.adapters import clickhouse, event_rows
from pipeline.core import normalise
from pipeline.core.contacts import Contact
from pipeline.core.events import TYPES, Event, EventId, Evidence, PortalId, Retraction, Utk
from pipeline.core.explanation import Step, Story, Withdrawal, story
from pipeline.core.ids import ContactId
from pipeline.core.links import Link
from pipeline.core.timeline import Owner
from pipeline.errors import UsageError, UserError
from pipeline.policy_file import load_policy
from pipeline.replay import registry
from pipeline.settings import Settings

TOLD = tuple(name for name, kind in TYPES.items() if issubclass(kind, Evidence | Retraction))
"""Types of events that decide whose anything is."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is to be explained: one of the three."""

    event: EventId | None = None
    utk: Utk | None = None
    contact: ContactId | None = None


@dataclass(frozen=True, slots=True)
class Explained:
    """Under one policy: `owner` of an event (None if it is retracted, by `withdrawn`), `contact` that is asked for (None: there is no such
    one), `links` of the cookie or contact.
    """

    owner: Owner | None
    withdrawn: Withdrawal | None
    contact: Contact | None
    links: Sequence[tuple[Utk, Link]]
    steps: Sequence[Step | Withdrawal]
    contacts: Mapping[ContactId, Contact]
    """Those that are named in it."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """`otherwise`: under the policy with these overrides."""

    portal: PortalId
    subject: Subject
    event: Event | None
    now: Explained
    overrides: Sequence[str]
    otherwise: Explained | None


def subject(event: str | None, utk: str | None, contact: str | None) -> Subject:
    """From the command line. UsageError unless it is one of the three, and valid."""
    given = [option for option, value in (("--event", event), ("--utk", utk), ("--contact", contact)) if value is not None]
    if len(given) != 1:
        raise UsageError("name one of --event, --utk and --contact")
    found = Subject(normalise.event_id(event), normalise.utk(utk), ContactId(id_) if (id_ := normalise.event_id(contact)) else None)
    if found == Subject():
        expected = "32 hex digits, with or without dashes" if utk is not None else "a UUID"
        raise UsageError(f"{given[0]} is {event or utk or contact!r}: expected {expected}")
    return found


def explain(settings: Settings, asked: Subject, portal: int | None = None, overrides: Sequence[str] = ()) -> Explanation:
    """In the live generation. UserError if there is no such thing, or if several portals have one and none is named.

    UsageError for overrides of what decides nobody's identity.
    """
    _check_overrides(overrides)
    settings = registry.live(settings)
    policy = load_policy(settings.policy_file)
    other = load_policy(settings.policy_file, overrides) if overrides else None
    client = clickhouse.connect(settings)
    where = PortalId(portal) if portal is not None else _portal(client, asked)
    event = _event(client, where, asked.event) if asked.event else None
    evidence = [*event_rows.events(client, where, "type IN %(types)s", types=TOLD), *([event] if event else [])]
    now = _explained(story(where, evidence, policy.identity), asked, event)
    if asked.utk and not now.steps and not event_rows.events(client, where, "utk = %(utk)s LIMIT 1", utk=asked.utk):
        raise UserError(f"portal {where} has no event of the cookie {asked.utk}")
    if asked.contact and now.contact is None:
        raise UserError(f"portal {where} has no contact {asked.contact}")
    otherwise = _explained(story(where, evidence, other.identity), asked, event) if other else None
    return Explanation(where, asked, event, now, overrides, otherwise)


def _check_overrides(overrides: Sequence[str]) -> None:
    for override in overrides:
        if override.strip().startswith("sessions."):
            raise UsageError(
                f"--set {override}: explain tells whose things are, and no policy of sessions changes that. Set one of identity, such as "
                f"identity.rebind=move_all; what other sessions come to is told by `replay start --set {override}` and `replay diff`."
            )


def as_json(shown: Explanation) -> dict[str, object]:
    """Times in epoch milliseconds."""
    return {
        "portal_id": shown.portal,
        "event_id": shown.subject.event,
        "utk": shown.subject.utk,
        "contact_id": shown.subject.contact,
        "now": _json(shown.now),
        "overrides": list(shown.overrides),
        "otherwise": _json(shown.otherwise) if shown.otherwise else None,
    }


def _explained(told: Story, asked: Subject, event: Event | None) -> Explained:
    fold = told.fold
    if event is not None:
        owner, steps = told.of_event(event)
        withdrawn = told.withdrawn(event)
        links = [(event.utk, link) for link in fold.links.get(event.utk, ())] if event.utk else []
        return Explained(None if withdrawn else owner, withdrawn, None, links, steps, fold.contacts)
    if asked.utk is not None:
        links = [(asked.utk, link) for link in fold.links.get(asked.utk, ())]
        return Explained(None, None, None, links, told.of_cookie(asked.utk), fold.contacts)
    assert asked.contact is not None
    links = [(utk, link) for utk, of_cookie in sorted(fold.links.items()) for link in of_cookie if link.contact_id == asked.contact]
    return Explained(None, None, fold.contacts.get(asked.contact), links, told.of_contact(asked.contact), fold.contacts)


def _json(explained: Explained) -> dict[str, object]:
    return {
        "owner": explained.owner._asdict() if explained.owner else None,
        "retracted_by": explained.withdrawn.retraction.event_id if explained.withdrawn else None,
        "contact": explained.contact,
        "links": [{"utk": utk, "link": link} for utk, link in explained.links],
        "chain": [_withdrawal_json(step) if isinstance(step, Withdrawal) else _step_json(step) for step in explained.steps],
    }


def _step_json(step: Step) -> dict[str, object]:
    return {
        "evidence": step.evidence,
        "rule": step.outcome.rule,
        "contact_id": step.outcome.contact_id,
        "contacts": [{"before": before, "after": after} for before, after in step.contacts.values()],
        "links": [{"utk": utk, "before": before, "after": after} for utk, (before, after) in step.links.items()],
    }


def _withdrawal_json(step: Withdrawal) -> dict[str, object]:
    return {
        "retraction": {"at": step.retraction.occurred_at, "event_id": step.retraction.event_id},
        "retracted": {"at": step.event.occurred_at, "event_id": step.event.event_id, "kind": step.event.type},
    }


def _portal(client: Client, asked: Subject) -> PortalId:
    """The portal that has what is asked for, when none is named."""
    if asked.contact is not None:
        what, table, column, id_ = "contact", "contacts", "contact_id", str(asked.contact)
    elif asked.utk is not None:
        what, table, column, id_ = "cookie", "event_rows", "utk", str(asked.utk)
    else:
        what, table, column, id_ = "event", "event_rows", "event_id", str(asked.event)
    rows = client.execute(f"SELECT DISTINCT portal_id FROM {table} WHERE {column} = %(id)s", {"id": id_})
    portals = sorted(portal for (portal,) in rows)
    if not portals:
        raise UserError(f"there is no {what} {id_}. It may still be on its way: see `status`.")
    if len(portals) > 1:
        raise UserError(f"portals {', '.join(map(str, portals))} have the {what} {id_}: name one with --portal")
    return PortalId(portals[0])


def _event(client: Client, portal: PortalId, event_id: EventId) -> Event:
    found = event_rows.events(client, portal, "event_id = %(id)s", id=event_id)
    if not found:
        raise UserError(f"portal {portal} has no event {event_id}. It may still be on its way: see `status`.")
    return found[0]
