"""The crash: ends this process by SIGKILL while one handler is at work and a transaction stands open."""

import os
import signal
import threading

_SIGNAL = getattr(signal, "SIGKILL", signal.SIGTERM)
KILLED = -_SIGNAL if os.name == "posix" else int(_SIGNAL)


class Crash:
    """Armed by the importer; a handler that has just left its mark then stays for ever, and the importer strikes."""

    def __init__(self) -> None:
        self._armed = threading.Event()
        self._caught = threading.Event()

    def arm(self) -> None:
        self._armed.set()

    def wait_for_a_handler(self) -> None:
        """Until a handler has done its work and not returned: done, and nowhere written down."""
        if not self._caught.wait(timeout=30):
            raise TimeoutError("no handler came by in 30 s")

    def catch(self) -> None:
        if self._armed.is_set():
            self._caught.set()
            threading.Event().wait()

    def strike(self) -> None:
        os.kill(os.getpid(), _SIGNAL)


crash = Crash()
