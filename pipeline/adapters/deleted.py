"""Records that were deleted before they were read, and topics that were made anew: what to say, and whether to go on.

Kafka's clients would jump to the first record that is left, without a word. Here nothing is skipped silently: whoever finds a gap
between where it should go on and where a topic begins calls `gone`. A consumer of librdkafka finds it by `auto.offset.reset: error`,
and calls `begin`; `assign` spares it that for partitions that are new.
"""

from contextlib import suppress

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, TopicPartition

from pipeline.adapters import kafka
from pipeline.errors import UserError
from pipeline.logs import logger
from pipeline.settings import Settings

_TIMEOUT_S = 10.0

log = logger("deleted")


class DeletedError(UserError):
    """Records are gone for good, and nobody has allowed to go on without them."""


class MadeAnewError(UserError):
    """A topic ends before the place that was read: it was deleted and made again, or has lost its end."""


def gone(settings: Settings, reader: str, where: tuple[str, int], missing: range) -> None:
    """The offsets `missing` of `where` (topic as Kafka knows it, partition) are gone, and `reader` has not read them.

    DeletedError, or only an error in the log if `worker.deleted_records` is `skip`.
    """
    topic, partition = where
    offsets = f"offsets {missing.start:,} to {missing.stop - 1:,} of {topic}[{partition}]"
    if settings.worker.deleted_records == "skip":
        log.error("records were deleted before they were read: skipped", reader=reader, records=len(missing), what=offsets)
        return
    raise DeletedError(
        f"{len(missing):,} records were deleted before {reader} had read them: {offsets}. Put them back, or lose them: "
        "go on without them with worker.deleted_records=skip (PIPELINE_WORKER__DELETED_RECORDS). "
        "So that it does not happen again, let raw topics keep everything: retention.ms=-1."
    )


def assign(consumer: Consumer, partitions: list[TopicPartition]) -> None:
    """As a consumer's `on_assign`: from what was committed, or the beginning. `begin` does what this cannot."""
    with suppress(KafkaException):
        committed = consumer.committed(partitions, _TIMEOUT_S)
        places = {(place.topic, place.partition): place.offset for place in committed}
        for place in partitions:
            place.offset = OFFSET_BEGINNING if places[place.topic, place.partition] < 0 else places[place.topic, place.partition]
    consumer.incremental_assign(partitions)


def begin(settings: Settings, consumer: Consumer, reader: str, found: Message, made_anew: str | None) -> None:
    """Sets the consumer to the first record of a partition of which nothing was committed, or something that is not there.

    `found` is the error that said so. DeletedError as `gone`; MadeAnewError if the topic was, and `made_anew` says why that is bad.
    kafka.AwayError if nobody says what there is: then nothing has happened, and it is to be done later.
    """
    place = TopicPartition(str(found.topic()), found.partition() or 0)
    due = consumer.position([place])[0].offset
    try:
        if due < 0:
            due = consumer.committed([place], _TIMEOUT_S)[0].offset
        first, end = consumer.get_watermark_offsets(place, _TIMEOUT_S)
    except KafkaException as exception:
        error = exception.args[0]
        what = kafka.reading(settings, error, place.topic, reader)
        raise kafka.ended(settings, error) or kafka.user_error(settings, error, what) from None
    if due > end:
        where = f"{place.topic}[{place.partition}] ends at offset {end:,}, and {reader} has come to {due:,}: it was made anew"
        if made_anew:
            raise MadeAnewError(f"{where}. {made_anew}")
        log.warning("beginning again", why=where)
    elif 0 <= due < first:
        gone(settings, reader, (place.topic, place.partition), range(due, first))
    consumer.incremental_unassign([place])  # seek works only for what is being fetched
    consumer.incremental_assign([TopicPartition(place.topic, place.partition, first)])
