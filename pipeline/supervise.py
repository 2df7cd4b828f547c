"""Many parts on one machine, each a process of its own: started, restarted when they die, stopped together.

- A part that dies is started again after a pause that doubles (`Pauses`), and the log says so.
- A part that ends with exit code 2 was told something impossible (a wrong setting): starting it again cannot help, so
  everything stops with that code.
- SIGINT or SIGTERM stops all: SIGTERM to each part, SIGKILL after `GRACE_S` seconds or at a second signal.
- Each part leads a process group of its own, so that the terminal's Ctrl-C reaches only the supervisor, and asks the
  kernel to be killed when its parent dies (`die_with`), so that `kill -9` of the supervisor leaves nothing behind.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipeline.logs import logger
from pipeline.settings import Settings
from pipeline.settings_sources import PREFIX

GRACE_S = 10.0
"""How long the parts may take to finish their batch and commit."""
_TICK_S = 0.1
_KILLED_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)

_FRUGAL = {"MALLOC_ARENA_MAX": "2"}
"""Parts have a dozen threads, and glibc would keep memory of its own for each."""

log = logger("run")


@dataclass(frozen=True, slots=True)
class Pauses:
    """How long to wait before a part is started again: `first_s`, doubling up to `longest_s`, afresh after `stable_s` of life."""

    first_s: float = 1.0
    longest_s: float = 30.0
    stable_s: float = 60.0

    def next(self, last_s: float, lived_s: float) -> float:
        """The pause after a life of `lived_s` seconds; `last_s` is the pause before that life, 0 at first."""
        if last_s == 0 or lived_s >= self.stable_s:
            return self.first_s
        return min(last_s * 2, self.longest_s)


@dataclass(frozen=True, slots=True)
class Part:
    """What to start: a name for people, a command, and its environment besides ours (our settings are not in it: some are secrets)."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict, hash=False, repr=False)


@dataclass(slots=True)
class _Life:
    """One part's present or coming process."""

    part: Part
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    pause_s: float = 0.0
    start_at: float = 0.0
    retired_at: float | None = None
    reader: threading.Thread | None = field(default=None, repr=False)


class Supervisor:
    """Runs `parts`, from the main thread, until a signal arrives."""

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        prefix_lines: bool = True,
        pauses: Pauses = Pauses(),
        handed_on: Sequence[signal.Signals] = (),
    ) -> None:
        """`prefix_lines`: each line of a part's output, which goes to stderr, has the part's name before it.

        Signals that are `handed_on` go to the parts, and stop nothing.
        """
        self._wanted = tuple(parts)
        self._lives: list[_Life] = []
        self._prefix_lines = prefix_lines
        self._prefix_width = 0
        self._pauses = pauses
        self._handed_on = handed_on
        self._signals = 0
        self._exit_code = 0

    def run(self) -> int:
        """Returns when all parts have ended: 0 after a signal, 2 if a part cannot run with these settings."""
        with self._signals_counted():
            try:
                while not self._signals:
                    self._heed_wanted()
                    for life in self._lives:
                        self._care_for(life)
                    time.sleep(_TICK_S)
            finally:
                self._stop_all()
        return self._exit_code

    def run_these(self, parts: Sequence[Part]) -> None:
        """From now on these parts: new ones are started, and ones that are missing are stopped. May be called from another thread."""
        self._wanted = tuple(parts)

    def _ask_to_stop(self) -> None:
        self._signals += 1

    def _heed_wanted(self) -> None:
        wanted = {part.name: part for part in self._wanted}
        self._prefix_width = max(map(len, wanted), default=0)
        for life in self._lives:
            if life.part.name not in wanted and life.retired_at is None:
                life.retired_at = time.monotonic()
                _signal(life, signal.SIGTERM)
        self._lives = [life for life in self._lives if life.retired_at is None or life.process is not None]
        self._lives += [_Life(part) for name, part in wanted.items() if name not in {life.part.name for life in self._lives}]

    def _hand_on(self, number: signal.Signals) -> None:
        for life in self._lives:
            _signal(life, number)

    def _care_for(self, life: _Life) -> None:
        now = time.monotonic()
        if life.retired_at is not None:
            self._see_off(life, now)
            return
        if life.process is None:
            if now >= life.start_at:
                self._start(life, now)
            return
        if (code := life.process.poll()) is not None:
            self._after_death(life, code, now)

    def _after_death(self, life: _Life, code: int, now: float) -> None:
        """A part has ended that should not have: it is to be started again, unless that cannot help."""
        lived_s = now - life.started_at
        self._forget(life)
        if code == 2:
            log.error("a part cannot run with these settings: stopping", name=life.part.name)
            self._exit_code = 2
            self._ask_to_stop()
            return
        life.pause_s = self._pauses.next(life.pause_s, lived_s)
        life.start_at = now + life.pause_s
        log.warning(
            "a part died and will be restarted",
            name=life.part.name,
            ended=_ending(code),
            lived_s=round(lived_s, 1),
            restart_in_s=life.pause_s,
        )

    def _see_off(self, life: _Life, now: float) -> None:
        """One that is not wanted any more has been told so: until it has ended."""
        assert life.retired_at is not None
        if life.process is not None and life.process.poll() is not None:
            log.info("ended, as it is not needed any more", name=life.part.name)
            self._forget(life)
        elif now - life.retired_at > GRACE_S:
            _signal(life, signal.SIGKILL)

    def _start(self, life: _Life, now: float) -> None:
        life.process = subprocess.Popen(
            life.part.command,
            env=_environment(life.part),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        life.started_at = now
        life.reader = threading.Thread(target=self._show, args=(life.part.name, life.process), daemon=True)
        life.reader.start()
        log.info("started", name=life.part.name, pid=life.process.pid)

    def _show(self, name: str, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        output = sys.stderr.buffer
        for line in process.stdout:
            output.write((f"{name:<{self._prefix_width}} | ".encode() if self._prefix_lines else b"") + line)
            output.flush()

    def _forget(self, life: _Life) -> None:
        if life.reader is not None:
            life.reader.join(timeout=1)
        life.process = life.reader = None

    def _stop_all(self) -> None:
        """SIGTERM to all at once, SIGKILL to what is left after the grace or at a further signal."""
        signals, deadline = self._signals, time.monotonic() + GRACE_S
        running = [life for life in self._lives if life.process is not None]
        log.info("stopping", parts=len(running), at_most_s=GRACE_S)
        for life in running:
            _signal(life, signal.SIGTERM)
        while _alive(running) and time.monotonic() < deadline and self._signals == signals:
            time.sleep(_TICK_S)
        for life in _alive(running):
            log.warning("did not stop in time: killed", name=life.part.name)
        for life in running:
            _signal(life, signal.SIGKILL)
            if life.process is not None:
                life.process.wait()
            self._forget(life)
        log.info("stopped")

    @contextmanager
    def _signals_counted(self) -> Iterator[None]:
        """Turns SIGINT, SIGTERM and SIGHUP into a wish to stop, for as long as it lasts."""
        handled = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and signal.SIGHUP not in self._handed_on:  # nohup
            handled.append(signal.SIGHUP)
        before = {number: signal.signal(number, lambda *_: self._ask_to_stop()) for number in handled}
        before |= {number: signal.signal(number, lambda number, _: self._hand_on(signal.Signals(number))) for number in self._handed_on}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def die_with(parent: int) -> None:
    """Has the kernel kill this process when process `parent`, which started it, ends; ends at once if that has happened already."""
    ctypes.CDLL(None, use_errno=True).prctl(_KILLED_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def workers(roles: Iterable[str], count: int, settings: Settings) -> list[Part]:
    """`count` processes of each role, named sessionize-0 ... or sessionize.g2-0 ...; none knows a secret that it does not need."""
    return [
        Part(f"{role}{settings.suffix}-{number}", _worker_command(role, number), settings.acting_as(role).environment())
        for role in roles
        for number in range(count)
    ]


def _environment(part: Part) -> dict[str, str]:
    others = {name: value for name, value in os.environ.items() if not name.upper().startswith(PREFIX)}
    return {**_FRUGAL, **others, **part.environment}


def _worker_command(role: str, number: int) -> tuple[str, ...]:
    return (sys.executable, "-m", "pipeline", "worker", role, "--instance", str(number), "--parent", str(os.getpid()))


def _alive(lives: Sequence[_Life]) -> list[_Life]:
    return [life for life in lives if life.process is not None and life.process.poll() is None]


def _signal(life: _Life, number: signal.Signals) -> None:
    """To the part's whole process group, while it certainly is the part's: a process that was waited for has lent its number."""
    if life.process is not None and life.process.poll() is None:
        os.killpg(life.process.pid, number)


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
