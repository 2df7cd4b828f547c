"""The derived topics that rows are from, and whether they still are the same.

The version of such a row is an offset (derived_rows.py). In a topic that was made anew offsets begin at 0 again, so the rows of the old one
would win over all that is new, and nobody would see it.
"""

from clickhouse_driver import Client

from pipeline.adapters import derived_rows, kafka
from pipeline.adapters.deleted import MadeAnewError
from pipeline.adapters.topic_ids import made_anew, topic_ids
from pipeline.settings import Settings

WHY = (
    "The rows of the old one would win over those of the new one, whose offsets are smaller: "
    "begin anew under another kafka.topic_prefix and clickhouse.database."
)


def check(client: Client, settings: Settings) -> None:
    """Notes topics that are recorded for the first time. MadeAnewError if one is not the topic that was recorded before."""
    before: dict[str, str] = dict(client.execute("SELECT topic, topic_id FROM recorded_topics"))
    now = topic_ids(settings, derived_rows.TABLES)
    if anew := made_anew(before, now):
        names = ", ".join(kafka.topic_name(settings, topic) for topic in anew)
        raise MadeAnewError(f"{names}: deleted and made again since it was recorded. {WHY}")
    if new := [(topic, id_) for topic, id_ in now.items() if topic not in before]:
        client.execute("INSERT INTO recorded_topics (topic, topic_id) VALUES", new)
