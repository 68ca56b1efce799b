"""One line per check, and what the suite told this client to expect."""

import os
import sys
import threading
from dataclasses import dataclass, field


class Report:
    """Prints each check once. The first verdict on a name stands, so a late `ok` cannot cover an earlier `FAIL`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._verdicts: dict[str, bool] = {}

    def ok(self, name: str, detail: object) -> None:
        self._record(True, name, detail)

    def fail(self, name: str, detail: object) -> None:
        self._record(False, name, detail)

    def settle(self, name: str, passed: bool, detail: object) -> None:
        self._record(passed, name, detail)

    def _record(self, passed: bool, name: str, detail: object) -> None:
        with self._lock:
            if name in self._verdicts:
                return
            self._verdicts[name] = passed
            one_line = ' '.join(str(detail).split())
            print('ok' if passed else 'FAIL', name, one_line, flush=True)

    def exit_code(self) -> int:
        with self._lock:
            return 0 if self._verdicts and all(self._verdicts.values()) else 1


def must_env(name: str) -> str:
    """Ends the program when the suite did not set a variable: a default would hide a mistake in the suite."""
    value = os.environ.get(name)
    if not value:
        sys.exit(f'{name} is not set')
    return value


@dataclass(frozen=True)
class Expected:
    """What the suite registered for this client."""

    socket: str = field(default_factory=lambda: must_env('SPIFFE_ENDPOINT_SOCKET'))
    out: str = field(default_factory=lambda: must_env('INTEROP_OUT'))
    spiffe_id: str = field(default_factory=lambda: must_env('INTEROP_ID'))
    second_id: str = field(default_factory=lambda: must_env('INTEROP_SECOND_ID'))
    second_dns: str = field(default_factory=lambda: must_env('INTEROP_SECOND_DNS'))
    rotations: int = field(default_factory=lambda: int(must_env('INTEROP_ROTATIONS')))
    deadline_secs: int = field(default_factory=lambda: int(must_env('INTEROP_DEADLINE_SECS')))
