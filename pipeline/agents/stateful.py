"""What the state of a partition is to whoever feeds it: the live workers (folding.py), and a rebuild, which does without Faust."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from pipeline.adapters.changelog import Output
from pipeline.agents.decoding import Arrived


class Effects(NamedTuple):
    """What follows from a batch: derived records, the new values of changed keys (None: gone), and how many events came too late."""

    outputs: list[Output]
    changes: dict[bytes, bytes | None]
    late: int = 0


class StatefulPart(Protocol):
    """The state of one partition, and what events do to it. An exception that is no UserError is a bug; both end the process."""

    def restore(self, items: Mapping[bytes, bytes]) -> None:
        """Becomes the state that was written as `changes` before. Called once, first. UserError if it cannot be used any more."""

    def apply(self, arrived: Sequence[Arrived], /, *, again: bool = False) -> Effects:
        """Folds in what came from some topics. A record that was applied never comes again.

        Unless the state that had it was lost: `again`, after which comes `everything`. What is forgotten meanwhile, and will be missing
        there, is among the outputs.
        """

    def everything(self) -> Iterator[Output]:
        """All that follows from the state; and of whatever could be named after its events, and is not there, that there is nothing. For
        readers who may know what followed from a state that was lost.
        """
