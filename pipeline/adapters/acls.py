"""Rights on the broker: granting what rights.py derives, and looking whether this process has what it needs.

`apply_rights` makes the ACLs of our users (those in `kafka.principals`) on our names (all after `kafka.topic_prefix`) what they should
be, and leaves alone what is anybody else's, or our own: an administrator who is named there, too, stays one.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, but left out of __all__
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from pipeline.adapters import kafka
from pipeline.adapters.rights import Grant, Right, grants, rights, users
from pipeline.errors import UserError
from pipeline.settings import Settings

TIMEOUT_S = 30.0
GROUP_TIMEOUT_S = 5.0
"""A young broker says nothing about groups: the first who asks has it make their topic."""
_KINDS = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transaction": ResourceType.TRANSACTIONAL_ID,
    "cluster": ResourceType.BROKER,
}
_OPERATIONS = {
    "read": AclOperation.READ,
    "write": AclOperation.WRITE,
    "describe": AclOperation.DESCRIBE,
    "see settings of": AclOperation.DESCRIBE_CONFIGS,
    "number records in": AclOperation.IDEMPOTENT_WRITE,
}


@dataclass(frozen=True, slots=True)
class Applied:
    """What was, or with a dry run would be, granted and taken away."""

    granted: list[Right]
    removed: list[Right]


def apply_rights(settings: Settings, *, dry_run: bool = False) -> Applied:
    """Grants what is missing and takes away what our users have on our names without need. UserError if we may not, or there are none."""
    if not users(settings):
        raise UserError("kafka.principals names no user: give each part its sasl.username there (README, Security)")
    kafka.reach(settings)
    wanted = {_binding(right): right for right in rights(settings)}
    try:
        client = kafka.admin(settings)  # by name: without it the answers would die with it
        present = set(client.describe_acls(anything(), request_timeout=TIMEOUT_S).result())
        ours = {binding: right for binding in present if (right := _ours(settings, binding)) is not None}
        missing, excess = wanted.keys() - present, ours.keys() - wanted.keys()
        if not dry_run:
            _change(client, missing, excess)
    except KafkaException as exception:
        raise _refusal(settings, exception.args[0]) from None
    return Applied(sorted(wanted[binding] for binding in missing), sorted(ours[binding] for binding in excess))


def _change(client: AdminClient, missing: Collection[AclBinding], excess: Collection[AclBinding]) -> None:
    answers = [*client.create_acls(list(missing), request_timeout=TIMEOUT_S).values()] if missing else []
    answers += [*client.delete_acls(list(map(_filter, excess)), request_timeout=TIMEOUT_S).values()] if excess else []
    for answer in answers:
        answer.result()


def _refusal(settings: Settings, error: KafkaError) -> UserError:
    if error.code() == KafkaError.SECURITY_DISABLED:
        return UserError(
            f"kafka.bootstrap_servers is {settings.kafka.bootstrap_servers!r}: this broker grants no rights, everybody may do everything. "
            f"Give it an authorizer; `python -m infra.servers up --secure` starts an embedded one with."
        )
    if error.code() in kafka.PERMISSIONS:
        return kafka.forbidden(settings, "see and change rights (Alter on the cluster); an administrator may")
    return kafka.user_error(settings, error)


def check_rights(settings: Settings, principal: str) -> None:
    """UserError naming the first right that this process does not have; what the broker does not tell passes.

    Rights to transactions are told by the first transaction only. Where nobody logs in, there is nothing to look at.
    """
    if settings.kafka.options.get("security.protocol", "plaintext").lower() == "plaintext":
        return
    needed = sorted((grant.kind, _named(settings, grant), grant.operation) for grant in grants(principal) if not grant.is_prefix)
    client = kafka.admin(settings)  # by name: without it the answers would die with it
    for kind, ask in (("topic", _ask_topics), ("group", _ask_groups)):
        allowed = _allowed(ask(client, sorted({name for of, name, _ in needed if of == kind})))
        for _, name, operation in (right for right in needed if right[0] == kind):
            if name in allowed and _OPERATIONS[operation] not in allowed[name]:
                raise kafka.forbidden(settings, f"{operation} {kind} {name}")


def _named(settings: Settings, grant: Grant) -> str:
    return kafka.topic_name(settings, grant.name) if grant.kind == "topic" else kafka.group_name(settings, grant.name)


def _ask_topics(client: AdminClient, names: list[str]) -> Mapping[str, Any]:
    return client.describe_topics(TopicCollection(names), include_authorized_operations=True, request_timeout=TIMEOUT_S) if names else {}


def _ask_groups(client: AdminClient, names: list[str]) -> Mapping[str, Any]:
    return client.describe_consumer_groups(names, include_authorized_operations=True, request_timeout=GROUP_TIMEOUT_S) if names else {}


def _allowed(answers: Mapping[str, Any]) -> dict[str, Sequence[AclOperation]]:
    """What we may do to each thing: nothing if the broker does not even show it. What it says nothing about is left out."""
    found: dict[str, Sequence[AclOperation]] = {}
    for name, answer in answers.items():
        try:
            if (operations := answer.result().authorized_operations) is not None:
                found[name] = operations
        except KafkaException as exception:
            if exception.args[0].code() in kafka.PERMISSIONS:
                found[name] = ()
    return found


def _binding(right: Right) -> AclBinding:
    pattern = ResourcePatternType.PREFIXED if right.is_prefix else ResourcePatternType.LITERAL
    return AclBinding(
        _KINDS[right.kind], right.name, pattern, f"User:{right.user}", "*", _OPERATIONS[right.operation], AclPermissionType.ALLOW
    )


def _ours(settings: Settings, binding: AclBinding) -> Right | None:
    """The right that an ACL is, if it is one of our users' on our names. An administrator's other users are left alone."""
    kind = next((kind for kind, of in _KINDS.items() if of == binding.restype), None)
    operation = next((name for name, of in _OPERATIONS.items() if of == binding.operation), AclOperation(binding.operation).name.lower())
    user = binding.principal.removeprefix("User:")
    is_allowed = binding.permission_type == AclPermissionType.ALLOW
    theirs = {*users(settings).values()} - {settings.kafka.options.get("sasl.username")}
    if kind is None or not is_allowed or user not in theirs:
        return None
    if kind != "cluster" and not binding.name.startswith(settings.kafka.topic_prefix):
        return None
    return Right(user, operation, kind, binding.name, binding.resource_pattern_type == ResourcePatternType.PREFIXED)


def anything() -> AclBindingFilter:
    """All ACLs of the broker."""
    anybody: Any = None
    return AclBindingFilter(ResourceType.ANY, anybody, ResourcePatternType.ANY, anybody, anybody, AclOperation.ANY, AclPermissionType.ANY)


def _filter(binding: AclBinding) -> AclBindingFilter:
    return AclBindingFilter(
        binding.restype,
        binding.name,
        binding.resource_pattern_type,
        binding.principal,
        binding.host,
        binding.operation,
        binding.permission_type,
    )
