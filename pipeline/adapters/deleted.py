"""Records that were deleted before they were read, and topics that were made anew: what to say, and whether to go on.

Kafka's clients would jump to the first record that is left, without a word. Here nothing is skipped silently: whoever finds a gap
between where it should go on and where a topic begins calls `gone`. A consumer of librdkafka finds it by `auto.offset.reset: error`,
see `Beginnings`.
"""

from collections.abc import Callable
from contextlib import suppress

from confluent_kafka import OFFSET_BEGINNING, OFFSET_STORED, Consumer, KafkaException, Message, TopicPartition

from pipeline.adapters import kafka
from pipeline.adapters.pending import Place
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


class Beginnings:
    """Where each partition of a member of a group begins, which assigns them all at once (the eager protocol).

    From what was committed, or the beginning; `begin` does what that cannot. `made_anew` says why it is bad for this topic (as Kafka
    knows it), None if it is not.
    """

    def __init__(self, settings: Settings, reader: str, made_anew: Callable[[str], str | None]) -> None:
        self._settings = settings
        self._reader = reader
        self._made_anew = made_anew
        self._begun: dict[Place, int] = {}
        """Where each was told to begin."""
        self._unbegun: set[Place] = set()
        """Those that do not know where to: Kafka says it once."""

    def assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """The consumer's `on_assign`."""
        self._unbegun = set()
        self._begun = {}
        with suppress(KafkaException):  # then it asks by itself, and `not_begun` hears of those that are new
            for place in consumer.committed(partitions, _TIMEOUT_S):
                self._begun[place.topic, place.partition] = place.offset if place.offset >= 0 else OFFSET_BEGINNING
        for place in partitions:
            place.offset = self._begun.get((place.topic, place.partition), OFFSET_STORED)
        consumer.assign(partitions)

    def not_begun(self, message: Message) -> None:
        """Hears the error of a partition that cannot begin where it should."""
        self._unbegun.add((str(message.topic()), message.partition() or 0))

    def begin(self, consumer: Consumer) -> None:
        """Sets the consumer to the first record of each partition of which nothing was committed, or something that is not there.

        DeletedError as `gone`; MadeAnewError if a topic was, and that is bad.
        kafka.AwayError if nobody says what there is: then nothing has happened, and it is to be done later.
        """
        if not self._unbegun:
            return
        assigned = consumer.assignment()
        self._unbegun &= {(place.topic, place.partition) for place in assigned}
        first = {place: self._first(consumer, TopicPartition(*place)) for place in self._unbegun}
        self._begun |= first
        goes_on = consumer.position([place for place in assigned if (place.topic, place.partition) not in first])
        for place in goes_on:
            if place.offset < 0:  # it has read nothing yet
                place.offset = self._begun.get((place.topic, place.partition), OFFSET_STORED)
        # All anew, since seek works only for what is being fetched.
        if first:
            consumer.assign([*goes_on, *(TopicPartition(*place, offset) for place, offset in first.items())])
            self._unbegun = set()

    def _first(self, consumer: Consumer, place: TopicPartition) -> int:
        """The first offset that there is, if it may begin there."""
        due = consumer.position([place])[0].offset
        try:
            if due < 0:
                due = consumer.committed([place], _TIMEOUT_S)[0].offset
            first, end = consumer.get_watermark_offsets(place, _TIMEOUT_S)
        except KafkaException as exception:
            error = exception.args[0]
            what = kafka.reading(self._settings, error, place.topic, self._reader)
            raise kafka.ended(self._settings, error) or kafka.user_error(self._settings, error, what) from None
        if due > end:
            where = f"{place.topic}[{place.partition}] ends at offset {end:,}, and {self._reader} has come to {due:,}: it was made anew"
            if bad := self._made_anew(place.topic):
                raise MadeAnewError(f"{where}. {bad}")
            log.warning("beginning again", why=where)
        elif 0 <= due < first:
            gone(self._settings, self._reader, (place.topic, place.partition), range(due, first))
        return int(first)
