"""ClickHouse: connections from the settings, and the migrations that make its tables and views.

`connect` is for commands: what a user can mend is a UserError. A worker tells an absent server (`AwayError`: wait and try again)
from everything else. `migrate` applies `infra/clickhouse/migrations/NNNN_name.sql` in order, each once; a file that was
applied must never change. Statements are written so that running one twice does no harm: several processes may migrate at once.
"""

import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import clickhouse_driver
from clickhouse_driver.block import ColumnOrientedBlock
from clickhouse_driver.errors import (
    Error,
    NetworkError,
    ServerException,
    SocketTimeoutError,
    UnexpectedPacketFromServerError,
    UnknownPacketFromServerError,
)

from pipeline.errors import UserError
from pipeline.settings import Settings

MIGRATIONS = Path(__file__).resolve().parents[2] / "infra" / "clickhouse" / "migrations"

logging.getLogger("clickhouse_driver.connection").setLevel(logging.CRITICAL)  # it shows a traceback where we say what to do

_SILENCE_S = 120
"""A server at work tells of its progress; one that says nothing for so long is away. Shorter than Kafka's patience with `record`, 300 s."""
_FIRST_WORD_S = 10
"""A server that takes a connection answers a first question by then, or is away: nobody waits for its silence before there is any work."""
_OPTIONS = {"connect_timeout": "5", "send_receive_timeout": str(_SILENCE_S), "sync_request_timeout": "5", "client_name": "pipeline"}
_SESSION = {"async_insert": 0, "optimize_on_insert": 0}
"""An insert has arrived when it returns (several servers have asynchronous inserts on by default). Its block is not merged in itself
first, which took a third of its time: readers are used to rows of one key that are not merged yet."""
_BUSY = frozenset({159, 160, 202, 209, 210, 236, 241, 242, 243, 252, 279, 285, 319, 394, 425, 439, 473, 774, 999})
"""Codes of errors that pass by themselves: time-outs, memory or disk full, too many queries or parts, tables read-only, no quorum ..."""
_CREDENTIALS = frozenset({192, 193, 194, 516})
_PERMISSIONS = frozenset({164, 497})
_READ_ONLY = 164
"""Our user may not write: a mistake to be told, or a server that somebody is at work on, so it is waited for as well."""
NOT_THERE = frozenset({60, 81})
"""No such table, no such database."""
_UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"
_RACES = frozenset({57, 60, 82, 81, 218})
"""Something is there, or not there yet, because another process does the same thing now."""
_ATTEMPTS = 5
_FILE = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_COMMENT = re.compile(r"^\s*--.*$", re.MULTILINE)
_END = re.compile(r";\s*$", re.MULTILINE)
_CREATE = re.compile(r"CREATE (?:OR REPLACE )?(?:TABLE|VIEW|MATERIALIZED VIEW) (?:IF NOT EXISTS )?`?(\w+)", re.IGNORECASE)

_APPLIED = """
CREATE TABLE IF NOT EXISTS schema_migrations
(
    `number` UInt32 COMMENT 'Number of the migration',
    `name` String COMMENT 'Name of its file',
    `checksum` String COMMENT 'SHA-256 of its file',
    `applied_at` DateTime('UTC') DEFAULT now() COMMENT 'When it was applied'
)
ENGINE = ReplacingMergeTree
ORDER BY number
COMMENT 'Migrations that were applied to this database'
"""


T = TypeVar("T")


class Client(clickhouse_driver.Client):  # type: ignore[misc]  # published without types
    """The driver's, which also takes columns of polars in an INSERT (native_blocks.py)."""

    def send_data(self, sample_block: Any, data: Any, types_check: bool = False, columnar: bool = False) -> int:  # noqa: FBT001, FBT002 - the driver's
        if not columnar or all(isinstance(column, list | tuple) for column in data):
            sent: int = super().send_data(sample_block, data, types_check=types_check, columnar=columnar)
            return sent
        from pipeline.adapters import native_blocks  # polars, which commands do without

        native_blocks.send(self.connection, sample_block.columns_with_types, data)
        self.receive_profile_events()
        self.connection.send_data(ColumnOrientedBlock())  # that was all
        self.receive_profile_events()
        return len(data[0])


class AwayError(UserError):
    """The server does not answer, or is too busy: the same thing may succeed later."""


def connect(settings: Settings) -> Client:
    """A connection that works, with the database of the settings. AwayError, or UserError if the server does not let us in."""
    return _connect(settings, settings.database)


def server(settings: Settings) -> Client:
    """The same without a database of its own."""
    return _connect(settings, None)


def migrate(settings: Settings) -> list[str]:
    """Makes the database, its tables and views; the names of the files that were applied now.

    AwayError, or UserError if a file was changed after it was applied, or the database is ahead of our files.
    """
    return amid_races(settings, lambda: _migrate(settings, settings.database))


def names_made() -> set[str]:
    """Names of the tables and views that `migrate` makes: whatever else is in a database is somebody else's."""
    statements = (_APPLIED.strip(), *(statement for migration in read_migrations() for statement in migration.statements))
    return {match[1] for statement in statements if (match := _CREATE.match(statement))}


def amid_races(settings: Settings, work: Callable[[], T]) -> T:
    """What `work` returns, begun again where another process did the same thing at the same moment."""
    attempt = 0
    while True:
        attempt += 1
        try:
            return work()
        except ServerException as error:
            if error.code not in _RACES or attempt == _ATTEMPTS:
                raise user_error(settings, error) or error from None
            time.sleep(0.2 * attempt)


def is_away(error: BaseException) -> bool:
    """Whether the error says that the server is absent or busy, so that trying again is right."""
    if isinstance(error, ServerException):
        return error.code in _BUSY or error.code == _READ_ONLY
    if _UNTRUSTED in str(error):
        return False
    return isinstance(error, AwayError | NetworkError | SocketTimeoutError | EOFError | OSError)


def user_error(settings: Settings, error: BaseException) -> UserError | None:
    """What a user can do about the error; None if nothing: then it is a bug of ours."""
    if isinstance(error, UserError):
        return error
    where = f"{settings.clickhouse.host}:{settings.clickhouse.port}"
    user = settings.clickhouse.user
    if isinstance(error, ServerException):
        if error.code in _CREDENTIALS:
            return UserError(
                f"clickhouse.user is {user!r}: the server at {where} does not know this user or password. "
                f"Correct clickhouse.user and clickhouse.password, or PIPELINE_CLICKHOUSE__PASSWORD."
            )
        if error.code in _PERMISSIONS:
            kind = AwayError if error.code == _READ_ONLY else UserError
            return kind(
                f"clickhouse.user is {user!r}: the server at {where} does not allow it: {_first_line(error)}. Grant that user the right."
            )
        if error.code not in _BUSY:
            return None
    elif not is_away(error):
        return _untrusted(where, error) if _UNTRUSTED in str(error) else None
    return AwayError(
        f"clickhouse.host and clickhouse.port are {where}: no answer there ({_first_line(error)}). Start ClickHouse (`make up` starts "
        f"the embedded one), or set PIPELINE_CLICKHOUSE__HOST and PIPELINE_CLICKHOUSE__PORT (the native protocol's; with TLS also "
        f"clickhouse.secure)."
    )


def _untrusted(where: str, error: BaseException) -> UserError:
    return UserError(
        f"clickhouse.options: the certificate of the server at {where} is not to be trusted ({_first_line(error)}). "
        f"Name its authority as ca_certs there."
    )


def identifier(name: str) -> str:
    """The name as SQL takes it, whatever is in it."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _connect(settings: Settings, database: str | None) -> Client:
    wanted = settings.clickhouse
    options = _OPTIONS | {"secure": str(wanted.secure)} | wanted.options
    user, password = quote(wanted.user, safe=""), quote(wanted.password.get_secret_value(), safe="")
    address = f"[{wanted.host}]" if ":" in wanted.host else wanted.host
    try:
        client: Client = Client.from_url(
            f"clickhouse://{user}:{password}@{address}:{wanted.port}/{quote(database or 'default', safe='')}?{urlencode(options)}"
        )
    except ValueError as error:
        raise UserError(
            f"clickhouse.host is {wanted.host!r} and clickhouse.options name {', '.join(wanted.options) or 'nothing'}: one of these cannot "
            f"be used ({error}). The host is a name or an address, without http://."
        ) from None
    client.settings.update(_SESSION)
    silence = client.connection.send_receive_timeout
    _allow_silence(client, min(silence, _FIRST_WORD_S))
    try:
        client.execute("SELECT 1")
        _allow_silence(client, silence)
    except (UnexpectedPacketFromServerError, UnknownPacketFromServerError) as error:
        raise UserError(
            f"clickhouse.host and clickhouse.port are {wanted.host}:{wanted.port}: what answers there does not speak ClickHouse's native "
            f"protocol ({_first_line(error)}). Set PIPELINE_CLICKHOUSE__PORT to that protocol's port: usually 9000, or 9440 with TLS; 8123 "
            f"is HTTP's."
        ) from None
    except (Error, OSError, EOFError) as error:
        if isinstance(error, ServerException) and error.code == 81:
            raise UserError(
                f"clickhouse.database is {database!r}: the server has no such database. Make it with `python -m pipeline migrate`, "
                f"or set PIPELINE_CLICKHOUSE__DATABASE."
            ) from None
        raise user_error(settings, error) or error from None
    return client


def _allow_silence(client: Client, seconds: float) -> None:
    for connection in (client.connection, *client.connections):
        connection.send_receive_timeout = seconds
        if connection.socket is not None:
            connection.socket.settimeout(seconds)


# Migrations


def _migrate(settings: Settings, database: str) -> list[str]:
    _connect(settings, None).execute(f"CREATE DATABASE IF NOT EXISTS {identifier(database)}")
    client = _connect(settings, database)
    client.execute(_APPLIED)
    return [_apply(client, migration) for migration in _pending(client, database)]


@dataclass(frozen=True, slots=True)
class Migration:
    number: int
    name: str
    checksum: str
    statements: tuple[str, ...]


def read_migrations(directory: Path | None = None) -> list[Migration]:
    """Every migration in order. UserError if a file's name is wrong or a number is missing or twice there."""
    directory = directory or MIGRATIONS
    migrations = [_read(path) for path in sorted(directory.glob("*.sql"))]
    if [migration.number for migration in migrations] != list(range(1, len(migrations) + 1)):
        raise UserError(
            f"{directory}: migrations are {[migration.name for migration in migrations]}; expected 0001, 0002 ... without a gap"
        )
    return migrations


def _read(path: Path) -> Migration:
    match = _FILE.fullmatch(path.name)
    if match is None:
        raise UserError(f"{path}: expected a name like 0001_events.sql")
    text = path.read_bytes()
    statements = (statement.strip() for statement in _END.split(_COMMENT.sub("", text.decode())))
    return Migration(int(match[1]), path.name, sha256(text).hexdigest(), tuple(filter(None, statements)))


def _pending(client: Client, database: str) -> list[Migration]:
    """What is still to be applied, after a look at what was."""
    migrations = read_migrations()
    known = {migration.number: migration for migration in migrations}
    applied: Sequence[tuple[int, str, str]] = client.execute("SELECT number, name, checksum FROM schema_migrations FINAL ORDER BY number")
    for number, name, checksum in applied:
        if number not in known:
            raise UserError(
                f"clickhouse.database {database!r} has migration {name}, which this program does not know: use the newer program."
            )
        if known[number].checksum != checksum:
            raise UserError(
                f"{MIGRATIONS / known[number].name} was changed after it was applied to clickhouse.database {database!r}: "
                f"restore it, and write what is new into a migration of its own."
            )
    done = {number for number, _, _ in applied}
    return [migration for migration in migrations if migration.number not in done]


def _apply(client: Client, migration: Migration) -> str:
    for statement in migration.statements:
        client.execute(statement)
    client.execute(
        "INSERT INTO schema_migrations (number, name, checksum) VALUES", [(migration.number, migration.name, migration.checksum)]
    )
    return migration.name


def _first_line(error: BaseException) -> str:
    return (
        (str(getattr(error, "message", "") or error).strip().splitlines() or [type(error).__name__])[0]
        .split(". Stack trace")[0]
        .rstrip(".")
    )
