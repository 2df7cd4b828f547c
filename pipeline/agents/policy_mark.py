"""State is made under a policy; going on under another would mix the two (to change it, rebuild: `replay start`)."""

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

import msgspec

from pipeline.errors import UserError

KEY = b"policy"


class PolicyMark:
    """The policy under which a partition's state was made, kept among its items in the changelog."""

    def __init__(self, policy: Any, section: str) -> None:
        assert is_dataclass(policy)
        self._now = msgspec.json.encode({name: str(value) for name, value in asdict(policy).items()})  # type: ignore[arg-type]
        self._section = section
        self._is_written = False

    def check(self, items: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
        """The items without the mark. UserError if the mark is that of another policy."""
        written = items.get(KEY)
        if written is not None and written != self._now:
            raise UserError(
                f"the live state was made under the policy {self._section} {written.decode()}, "
                f"and policy_file now says {self._now.decode()}: "
                "put the old values back, and rebuild under the new ones: `python -m pipeline replay start --policy FILE`"
            )
        self._is_written = written is not None
        return {key: value for key, value in items.items() if key != KEY}

    def changes(self) -> dict[bytes, bytes | None]:
        """The mark, the first time."""
        if self._is_written:
            return {}
        self._is_written = True
        return {KEY: self._now}
