"""When most of what arrives is refused, it is more likely that we cannot read than that nobody can write."""

from collections import Counter
from collections.abc import Sequence

from pipeline.core.outcomes import Refused
from pipeline.errors import UsageError

CEILING_RECORDS = 10_000
"""What share of records is refused is asked of so many, not of fewer."""


class CeilingError(UsageError):
    """Too much of what arrives is refused. Starting again by itself would only take it out of the topic little by little."""


class Ceiling:
    """Compares the share of refused records, of the last ten thousand or so, with the share that is allowed."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._arrived = 0
        self._refused = 0

    def check(self, events: int, refused: Sequence[Refused]) -> None:
        """Counts what arrived. CeilingError if too much of it is refused: before anything of it is buried or committed."""
        self._arrived += events + len(refused)
        self._refused += len(refused)
        if self._arrived < CEILING_RECORDS:
            return
        if self._refused > self._share * self._arrived:
            ((reason, often),) = Counter(refusal.reason.value for refusal in refused).most_common(1) or [("nothing", 0)]
            example = next((refusal.detail for refusal in refused if refusal.reason.value == reason), "")
            raise CeilingError(
                f"{self._refused:,} of the last {self._arrived:,} records were refused, now mostly for {reason} "
                f"({often:,} times; {example}). None of the last ones was taken out of the topic. "
                "Is schema_registry.url the registry that their producers use? If they are really no events, let them pass "
                "with dead_letters.ceiling=1 (PIPELINE_DEAD_LETTERS__CEILING). Then start again."
            )
        while self._arrived >= CEILING_RECORDS:
            self._arrived, self._refused = self._arrived // 2, self._refused // 2
