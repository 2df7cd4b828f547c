"""The embedded servers of one data directory: start, stop, status.

    python -m infra.servers up|down|status [--data-dir .data] [--secure|--no-secure] [--portal-analyst 11]

Both start at the same time and are up when both answer; then `servers.json` (mode 0600: it holds the passwords) says
where. Running servers are used as they are, so starting twice starts nothing; files left by servers that are gone
(kill -9, reboot) count for nothing. Ports and passwords are chosen at the first start and kept, like the data.
ClickHouse asks for passwords always; Kafka does with `--secure`, and then each part has a user of its own. It stays so until `--no-secure`.
"""

import argparse
import fcntl
import json
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from infra import clickhouse_server, kafka_server, ports, processes
from infra.processes import Identity
from pipeline.errors import UserError
from pipeline.principals import PRINCIPALS

DEFAULT_DATA_DIR = Path(".data")
START_SECONDS = 90.0
POLL_SECONDS = 0.05
LOG_LINES = 12
SIGNS_OF_A_LOCK = ("Cannot lock file", "Failed to acquire lock")
"""What ClickHouse and Kafka write when another process has their data open."""


@dataclass(frozen=True, slots=True)
class Kafka:
    """`options` are an administrator's client options, `principals` each part's own over these; both empty without security."""

    bootstrap_servers: str
    options: dict[str, str] = field(default_factory=dict)
    principals: dict[str, dict[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClickHouse:
    host: str
    port: int
    http_port: int
    user: str
    password: str
    analyst_user: str
    analyst_password: str
    portal_analysts: dict[str, dict[str, str]] = field(default_factory=dict)
    """User and password of a portal's own analyst, by portal."""


@dataclass(frozen=True, slots=True)
class Servers:
    """Where both listen, and who may come in: the content of `servers.json`, with the pids."""

    kafka: Kafka
    clickhouse: ClickHouse
    pids: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Server:
    """What differs between the two."""

    ports: tuple[str, ...]
    """Names in ports.json."""
    prepare: Callable[["_Directory"], tuple[list[str], Mapping[str, str]]]
    """Writes the configuration; the command and what it needs in its environment."""
    answers: Callable[["_Directory"], bool]


class _Directory:
    """The files of one pair of servers, and what they say."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.servers_file = self.path / "servers.json"
        self.ports_file = self.path / "ports.json"
        self._processes_file = self.path / "processes.json"
        self._passwords_file = self.path / "passwords.json"
        self._kafka_passwords_file = self.path / "kafka-passwords.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One start or stop at a time."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)  # everything that was ever published is in it
            self.logs.mkdir(exist_ok=True)
            lock = (self.path / "lock").open("w")
        except OSError as error:
            raise UserError(f"the data directory {self.path} cannot be used: {error}. Name another one (data_dir, --data-dir)") from None
        with lock as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def ports(self) -> dict[str, int]:
        kept = _read(self.ports_file)
        for name in (name for server in SERVERS.values() for name in server.ports if name not in kept):
            kept[name] = ports.choose(kept.values())
        _write(self.ports_file, kept)
        return kept

    def passwords(self) -> dict[str, str]:
        """Of ClickHouse's users."""
        kept = _read(self._passwords_file)
        for user in (clickhouse_server.WRITER, clickhouse_server.ANALYST):
            kept.setdefault(user, secrets.token_urlsafe(24))
        _write(self._passwords_file, kept)
        return kept

    def add_analysts(self, portals: Iterable[int]) -> None:
        """From the next start of ClickHouse on. UserError if it runs without them."""
        kept = self.passwords()
        new = {clickhouse_server.PORTAL_ANALYST.format(portal=portal) for portal in portals} - kept.keys()
        if new and "clickhouse" in self.running():
            users = ", ".join(sorted(new))
            raise UserError(f"ClickHouse runs without {users} in {self.path}: stop it first (`python -m infra.servers down`)")
        _write(self._passwords_file, kept | {user: secrets.token_urlsafe(24) for user in new})

    def kafka_passwords(self) -> dict[str, str]:
        """Of Kafka's users; none without security."""
        return dict(_read(self._kafka_passwords_file))

    def admin_password(self) -> str | None:
        return self.kafka_passwords().get(kafka_server.ADMIN)

    def secure(self, *, wanted: bool) -> None:
        """From the next start of Kafka on. UserError if it runs the other way."""
        kept = self.kafka_passwords()
        if bool(kept) != wanted and "kafka" in self.running():
            how = "without" if wanted else "with"
            raise UserError(f"Kafka runs {how} security in {self.path}: stop it first (`python -m infra.servers down`)")
        if wanted:
            _write(
                self._kafka_passwords_file,
                {user: kept.get(user) or secrets.token_urlsafe(24) for user in (kafka_server.ADMIN, *PRINCIPALS)},
            )
        else:
            self._kafka_passwords_file.unlink(missing_ok=True)

    def running(self) -> dict[str, Identity]:
        """Only those that are: a pid may belong to somebody else by now."""
        recorded = {name: Identity(**process) for name, process in _read(self._processes_file).items()}
        return {name: process for name, process in recorded.items() if process.is_running()}

    def record(self, running: Mapping[str, Identity]) -> None:
        _write(self._processes_file, {name: asdict(process) for name, process in running.items()})

    def servers(self) -> Servers:
        port, password = self.ports(), self.passwords()
        return Servers(
            self._kafka(f"{ports.LOOPBACK}:{port['kafka']}"),
            ClickHouse(
                host=ports.LOOPBACK,
                port=port["clickhouse"],
                http_port=port["clickhouse_http"],
                user=clickhouse_server.WRITER,
                password=password[clickhouse_server.WRITER],
                analyst_user=clickhouse_server.ANALYST,
                analyst_password=password[clickhouse_server.ANALYST],
                portal_analysts={
                    portal: {"user": user, "password": own}
                    for user, own in password.items()
                    if (portal := clickhouse_server.portal_of(user)) is not None
                },
            ),
            {name: process.pid for name, process in self.running().items()},
        )

    def _kafka(self, address: str) -> Kafka:
        users = {user: {"sasl.username": user, "sasl.password": password} for user, password in self.kafka_passwords().items()}
        admin = users.pop(kafka_server.ADMIN, None)
        return Kafka(address, kafka_server.LOGIN | admin, users) if admin else Kafka(address)


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}. Mend it, or delete it to have it made again") from None


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Whole or not at all, and readable by its owner only."""
    scratch = path.with_suffix(".new")
    scratch.unlink(missing_ok=True)
    scratch.touch(mode=0o600)
    scratch.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    scratch.replace(path)


def _prepare_kafka(directory: _Directory) -> tuple[list[str], Mapping[str, str]]:
    port, place, log = directory.ports(), directory.path / "kafka", directory.logs / "kafka.log"
    return kafka_server.prepare(place, log, port["kafka"], port["kafka_controller"], admin_password=directory.admin_password()), {}


def _prepare_clickhouse(directory: _Directory) -> tuple[list[str], Mapping[str, str]]:
    port, log = directory.ports(), directory.logs / "clickhouse.log"
    return clickhouse_server.prepare(directory.path / "clickhouse", log, port["clickhouse"], port["clickhouse_http"], directory.passwords())


SERVERS = {
    "clickhouse": _Server(
        ("clickhouse", "clickhouse_http"),
        _prepare_clickhouse,
        lambda directory: clickhouse_server.answers(directory.ports()["clickhouse"], directory.passwords()[clickhouse_server.WRITER]),
    ),
    "kafka": _Server(
        ("kafka", "kafka_controller"),
        _prepare_kafka,
        lambda directory: kafka_server.answers(directory.ports()["kafka"], directory.admin_password()),
    ),
}


def start(data_dir: Path, *, secure: bool | None = None, portals: Iterable[int] = ()) -> Servers:
    """Both servers of `data_dir`, answering; they outlive the caller. UserError if one cannot be had, and then none was started.

    `secure` says whether Kafka's clients need credentials; None: as it was, at first not. Each of `portals` gets an analyst of its own.
    """
    return _start(_Directory(data_dir), secure=secure, portals=portals, ends_with_parent=False)[0]


def stop(data_dir: Path) -> list[str]:
    """End those that run, and say which these were. Nothing else is touched, and the data stays."""
    directory = _Directory(data_dir)
    if not directory.path.exists():
        return []
    with directory.locked():
        running = directory.running()
        _end(directory, running)
    return sorted(running)


@contextmanager
def embedded(data_dir: Path, *, secure: bool | None = None, portals: Iterable[int] = ()) -> Iterator[Servers]:
    """Both servers while the block runs. They end with this process even if it is killed; those that ran before stay."""
    directory = _Directory(data_dir)
    servers, started = _start(directory, secure=secure, portals=portals, ends_with_parent=True)
    try:
        yield servers
    finally:
        with directory.locked():
            _end(directory, started)


def _start(
    directory: _Directory, *, secure: bool | None, portals: Iterable[int], ends_with_parent: bool
) -> tuple[Servers, dict[str, Identity]]:
    with directory.locked():
        if secure is not None:
            directory.secure(wanted=secure)
        directory.add_analysts(portals)
        running = directory.running()
        started: dict[str, Identity] = {}
        directory.servers_file.unlink(missing_ok=True)
        try:
            absent = {name: server for name, server in SERVERS.items() if name not in running}
            for server in absent.values():
                _refuse_taken_ports(directory, server)
            for name, server in absent.items():
                command, environment = server.prepare(directory)
                log = directory.logs / f"{name}.out"
                log.unlink(missing_ok=True)  # what an earlier run said would be taken for this one's last words
                started[name] = processes.spawn(command, log, environment, ends_with_parent=ends_with_parent)
                directory.record(running | started)
            _await_answers(directory, running | started)
            if "kafka" in started and (users := directory.kafka_passwords()):
                kafka_server.make_users(directory.ports()["kafka"], users)
        except BaseException:
            _end(directory, started)
            raise
        servers = directory.servers()
        _write(directory.servers_file, asdict(servers))
        return servers, started


def _end(directory: _Directory, ending: Mapping[str, Identity]) -> None:
    if ending:
        directory.servers_file.unlink(missing_ok=True)
    processes.stop(list(ending.values()))
    directory.record(directory.running())


def _refuse_taken_ports(directory: _Directory, server: _Server) -> None:
    for setting in server.ports:
        port = directory.ports()[setting]
        if not ports.is_free(port):
            raise UserError(
                f"port {port} ({setting}) is in use by {ports.occupant(port)}: end that, or change `{setting}` in "
                f"{directory.ports_file} (any free port will do; delete the file to have all chosen again)"
            )


def _await_answers(directory: _Directory, running: Mapping[str, Identity]) -> None:
    waiting = set(running)
    deadline = time.monotonic() + START_SECONDS
    while waiting:
        for name in sorted(waiting):
            if SERVERS[name].answers(directory):
                waiting.remove(name)
            elif not running[name].is_running():
                raise UserError(f"{name} ended while it was starting{_last_words(directory, name)}")
            elif time.monotonic() > deadline:
                raise UserError(f"{name} did not answer within {START_SECONDS:.0f} s{_last_words(directory, name)}")
        time.sleep(POLL_SECONDS)


def _last_words(directory: _Directory, name: str) -> str:
    shown = []
    for path in (directory.logs / f"{name}.log", directory.logs / f"{name}.out"):
        if path.exists() and path.stat().st_size:
            shown.append(f"The end of {path}:")
            shown += path.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
    if any(sign in line for line in shown for sign in SIGNS_OF_A_LOCK):
        shown.insert(
            0,
            f"Another server runs on the same data, {directory.path / name}: end that one (it is not in {directory.path}/processes.json).",
        )
    return "\n".join([".", *shown])


def _up(given: argparse.Namespace) -> int:
    servers = start(given.data_dir, secure=given.secure, portals=given.portal_analyst)
    print(f"kafka       {servers.kafka.bootstrap_servers}{' (with credentials)' if servers.kafka.options else ''}")
    print(f"clickhouse  {servers.clickhouse.host}:{servers.clickhouse.port} (HTTP {servers.clickhouse.http_port})")
    print(f"users and passwords are in {given.data_dir / 'servers.json'}")
    return 0


def _down(given: argparse.Namespace) -> int:
    print(f"stopped: {', '.join(stop(given.data_dir)) or 'nothing was running'}")
    return 0


def _status(given: argparse.Namespace) -> int:
    """0 if both answer, else 1."""
    directory = _Directory(given.data_dir)
    running = directory.running()
    answering = {name for name in running if SERVERS[name].answers(directory)}
    for name in SERVERS:
        state = "answers" if name in answering else "runs, does not answer" if name in running else "stopped"
        pid = f"  pid {running[name].pid}" if name in running else ""
        print(f"{name:<10}  {state}{pid}")
    return 0 if answering == SERVERS.keys() else 1


COMMANDS = {"up": _up, "down": _down, "status": _status}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.servers", description="The embedded Kafka and ClickHouse of a data directory.")
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--data-dir", type=Path, default=DEFAULT_DATA_DIR)
    parser.add_argument(
        "--secure", action=argparse.BooleanOptionalAction, help="up: whether Kafka asks for credentials and grants rights; else as before"
    )
    parser.add_argument(
        "--portal-analyst", type=int, action="append", default=[], metavar="PORTAL", help="up: give this portal an analyst of its own"
    )
    given = parser.parse_args(arguments)
    try:
        return COMMANDS[given.command](given)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
