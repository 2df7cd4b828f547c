"""What a generation is said to be, from what stands in the registry."""

import os
import platform

import msgspec
import pytest

from pipeline.core.policy import Policy, parse_policy
from pipeline.errors import UserError
from pipeline.policy_file import as_toml
from pipeline.replay.registry import About, Generation, Generations, State, this_process

BUILDING = Generation(2, State.BUILDING, about=About(builder=this_process()))


def built_by(builder: str, silent_s: int = 0) -> Generation:
    return msgspec.structs.replace(BUILDING, about=About(builder=builder), silent_s=silent_s)


def test_a_builder_of_this_machine_is_there_as_long_as_its_process() -> None:
    assert BUILDING.has_builder
    assert msgspec.structs.replace(BUILDING, silent_s=3600).has_builder, "it may be stopped, and go on"
    assert not built_by(f"{platform.node()}|{2**22 + os.getpid()}|1").has_builder


def test_another_process_under_the_number_of_the_builder_is_not_it() -> None:
    """A container that is started anew gives the same numbers again."""
    assert BUILDING.builder == f"{platform.node()}, {os.getpid()}"
    assert not built_by(f"{platform.node()}|{os.getpid()}|1").has_builder


def test_a_builder_elsewhere_is_there_as_long_as_it_speaks() -> None:
    assert built_by("another-machine|1", silent_s=59).has_builder
    assert not built_by("another-machine|1", silent_s=60).has_builder


def test_nobody_builds_what_is_built() -> None:
    assert not msgspec.structs.replace(BUILDING, state=State.FOLLOWING).has_builder


def test_generations_by_number() -> None:
    """One that was dropped is known, so that its number is not used again, and is no more."""
    all_ = Generations((Generation(1, State.DROPPED), BUILDING, Generation(3, State.FOLLOWING), Generation(4, State.FOLLOWING)), live=4)
    assert [generation.number for generation in all_.existing] == [2, 3, 4]
    assert all_.building == BUILDING
    assert all_.newest_other == 3
    with pytest.raises(UserError, match="generation 1 was dropped; there are: 2, 3, 4"):
        all_.of(1)
    with pytest.raises(UserError, match="generation 9 does not exist"):
        all_.of(9)


@pytest.mark.parametrize("overrides", [[], ["sessions.gap=90s", "sessions.split_on_source_change=true", "identity.rebind=keep_owner"]])
def test_a_policy_survives_its_file(overrides: list[str]) -> None:
    policy = parse_policy("", overrides)
    assert parse_policy(as_toml(policy)) == policy
    assert (policy == Policy()) == (overrides == [])
