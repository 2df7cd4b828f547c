"""Leaving a consumer group as a static member.

A member with a `group.instance.id` keeps its partitions while it restarts, so aiokafka never says goodbye for it, and its
partitions would rest until the session times out even when it stopped for good. LeaveGroup version 3 names members by
their instance (KIP-345); aiokafka has versions 0 and 1.

The coordinator is closed first: while it lives, its heartbeat or a join that is under way hears that the member is unknown, and
joins again as a new one, which nobody would ever say goodbye for.
"""

import asyncio
from typing import Any

import aiokafka
from aiokafka.errors import KafkaError
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Int16, Int32, Schema, String

from pipeline.logs import logger

log = logger("batching")

_TEXT = String("utf-8")
_CLOSE_S = 2.0
"""A join that is under way ends when all others have joined, or when we leave."""


class _LeaveGroupResponse(Response):  # type: ignore[misc]  # aiokafka has no types
    API_KEY = 13
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("members", Array(("member_id", _TEXT), ("group_instance_id", _TEXT), ("error_code", Int16))),
    )


class _LeaveGroupStruct(RequestStruct):  # type: ignore[misc]
    API_KEY = 13
    API_VERSION = 3
    RESPONSE_TYPE = _LeaveGroupResponse
    SCHEMA = Schema(("group", _TEXT), ("members", Array(("member_id", _TEXT), ("group_instance_id", _TEXT))))


class _LeaveGroup(Request[_LeaveGroupStruct]):  # type: ignore[misc]
    API_KEY = 13

    def __init__(self, group: str, member: str, instance: str) -> None:
        self._fields = (group, [(member, instance)])

    def build(self, request_struct_class: type[_LeaveGroupStruct]) -> _LeaveGroupStruct:
        return request_struct_class(*self._fields)


async def leave_group(consumer: aiokafka.AIOKafkaConsumer) -> None:
    """Gives the partitions of a static member to the others now. One try: if it fails, the session timeout does it later.

    The broker refuses if another process has our instance by now. Does nothing for a member without an instance: aiokafka leaves for it.
    """
    coordinator: Any = consumer._coordinator  # noqa: SLF001
    instance = getattr(coordinator, "_group_instance_id", None)
    if instance is None:
        return
    leaving = _LeaveGroup(coordinator.group_id, coordinator.member_id, instance)  # closing forgets the member
    closing = asyncio.ensure_future(coordinator.close())
    await asyncio.wait([closing], timeout=_CLOSE_S)
    try:
        await coordinator._send_req(leaving)  # noqa: SLF001
    except KafkaError as error:
        log.warning("could not leave the group, others take over when the session times out", error=str(error))
    await asyncio.wait([closing], timeout=_CLOSE_S)
