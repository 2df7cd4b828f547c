"""The rights that follow from topics/*.yaml."""

import pytest

from pipeline.adapters.acls import apply_rights
from pipeline.adapters.contracts import PARTS, RAW_TOPICS, load_topics
from pipeline.adapters.rights import Right, grants, rights
from pipeline.app import PARTS as FLOW
from pipeline.errors import UserError
from pipeline.principals import PRINCIPALS
from pipeline.settings import Kafka, Settings

RAW = set(RAW_TOPICS.values())


def topics_that(principal: str, operation: str) -> set[str]:
    return {grant.name for grant in grants(principal) if grant.kind == "topic" and grant.operation == operation and not grant.is_prefix}


def test_every_part_is_a_principal() -> None:
    assert set(PRINCIPALS) > PARTS


def test_a_producer_writes_raw_topics_only() -> None:
    assert topics_that("producer", "write") == RAW
    assert {grant.kind for grant in grants("producer")} == {"topic", "cluster"}
    assert {grant.operation for grant in grants("producer")} == {"write", "number records in"}


def test_publish_writes_raw_topics_and_what_it_refused() -> None:
    assert topics_that("publish", "write") == RAW | {"dead-letters"}
    assert topics_that("publish", "read") == set()


def test_parts_read_and_write_what_the_flow_says() -> None:
    """pipeline/app.py and the contracts give the same rights; a part's own changelog it reads as well."""
    for part in FLOW:
        assert topics_that(part.name, "write") == set(part.writes)
        assert topics_that(part.name, "read") == {*part.reads, *(topic for topic in part.writes if topic.endswith("-changelog"))}


def test_nobody_but_its_owner_has_a_group_or_a_transaction() -> None:
    held = {
        (grant.kind, grant.name, principal)
        for principal in PRINCIPALS
        for grant in grants(principal)
        if grant.operation in ("read", "write")
    }
    assert {(kind, name, who) for kind, name, who in held if kind == "transaction"} == {
        ("transaction", "sessionize-visitors-", "sessionize"),
        ("transaction", "sessionize.", "sessionize"),
        ("transaction", "identify-identities-", "identify"),
        ("transaction", "identify.", "identify"),
    }
    assert all(name.removesuffix(".") == who for kind, name, who in held if kind == "group")


def test_further_generations_are_covered_and_no_other_names() -> None:
    """`sessions.g2` is, `sessions-of-somebody` is not; what is common to all generations has no prefix."""
    prefixes = {grant.name for principal in PRINCIPALS for grant in grants(principal) if grant.kind == "topic" and grant.is_prefix}
    assert prefixes == {f"{name}." for name in load_topics() if name not in RAW and name != "dead-letters"}


def test_names_and_users_are_those_of_the_settings() -> None:
    """Whoever is not named is granted nothing: a user who happens to be called `record` may be somebody else's."""
    settings = Settings(kafka=Kafka(topic_prefix="shop-", principals={"sessionize": {"sasl.username": "u1"}}))
    assert Right("u1", "read", "topic", "shop-page-views") in rights(settings)
    assert Right("u1", "write", "transaction", "shop-sessionize-visitors-", is_prefix=True) in rights(settings)
    assert Right("u1", "number records in", "cluster", "kafka-cluster") in rights(settings)
    assert {right.user for right in rights(settings)} == {"u1"}


def test_nobody_named_is_a_mistake() -> None:
    with pytest.raises(UserError, match=r"kafka\.principals names no user"):
        apply_rights(Settings())
