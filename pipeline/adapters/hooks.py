"""What the batched transport (batching.py) needs of Faust and aiokafka, most of it private; checked at every start.

A release of either may rename any of it without a word, so the versions are pinned: to move one, read its changes against
`HOOKS`, run the tests of tests/agents, and change `PINNED` with the lock file.
"""

import importlib.metadata
from collections.abc import Mapping

import aiokafka
import faust
from aiokafka import codec
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.consumer.group_coordinator import GroupCoordinator
from faust.transport.drivers import aiokafka as driver

from pipeline.errors import UserError

PINNED = {"faust-streaming": "0.15.3", "aiokafka": "0.14.0"}

HOOKS: Mapping[type, str] = {
    driver.Consumer: "_new_consumer_thread _to_message _new_offset _add_gap _commit_offsets _commit assignment _wait_for_ack "
    "_clean_unacked_messages wait_empty stop_flow on_partitions_revoked on_buffer_full on_buffer_drop verify_event_path highwater "
    "ack commit",
    driver.AIOKafkaConsumerThread: "_create_worker_consumer _fetch_records _ensure_consumer _commit call_thread seek_to_committed "
    "on_partitions_assigned on_thread_stop on_crash close assignment",
    aiokafka.AIOKafkaConsumer: "seek_to_committed seek_to_beginning beginning_offsets commit",
    AIOKafkaClient: "_get_conn _metadata_update force_metadata_update",
    GroupCoordinator: "_send_req close",
    PartitionRecords: "_consumer_record",
    faust.App: "_create_directories",
    faust.Schema: "loads_key loads_value",
}
"""What the batched transport replaces or calls. Instance attributes besides: `_unacked_messages`, `_acked`, `_acked_index`,
`_committed_offset` of the consumer; `_client` and `_fetcher` of aiokafka's, and its `_fetch_max_wait_ms`."""

CODECS = {"gzip": codec.has_gzip, "snappy": codec.has_snappy, "lz4": codec.has_lz4, "zstd": codec.has_zstd}
"""Producers choose the compression; a reader must know all of them."""


def check_hooks() -> None:
    """UserError if the installed Faust or aiokafka is not what this transport was written for, or cannot read every compression."""
    installed = {name: importlib.metadata.version(name) for name in PINNED}
    hooks = [(owner, name) for owner, names in HOOKS.items() for name in names.split()]
    missing = [f"{owner.__module__}.{owner.__qualname__}.{name}" for owner, name in hooks if not hasattr(owner, name)]
    if installed != PINNED or missing:
        raise UserError(
            f"The batched transport needs {_versions(PINNED)}, and {_versions(installed)} are installed"
            + (f"; these hooks are missing: {', '.join(missing)}" if missing else "")
            + ". Install the versions of requirements.lock (`make install`)."
        )
    unreadable = [name for name, has in CODECS.items() if not has()]
    if unreadable:
        raise UserError(f"aiokafka cannot read what is compressed with {', '.join(unreadable)}: install cramjam (`make install`).")


def _versions(packages: Mapping[str, str]) -> str:
    return " and ".join(f"{name} {version}" for name, version in packages.items())
