"""A real Redis server on a free port of this machine, which keeps nothing on disk."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.apache_server import free_port
from tests.waiting import listens, wait_until


class Redis:
    """A server that runs until it is killed.  ``place`` is its directory.  Raises RuntimeError if it ends first."""

    def __init__(self, place: Path) -> None:
        self.port = free_port()
        options = {"port": str(self.port), "bind": "127.0.0.1", "save": "", "appendonly": "no"}
        options.update(dir=str(place), daemonize="no", loglevel="warning")
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        # Ctrl-C does not end it before those that use it, and it does not survive this process.
        command = ["setpriv", "--pdeathsig", "KILL", "redis-server", *words]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            wait_until(lambda: self._process.poll() is not None or listens(self.port), "Redis listens")
        except BaseException:
            self.kill()
            raise
        if self._process.poll() is not None:
            raise RuntimeError(f"redis-server does not start on port {self.port}")

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://127.0.0.1:{self.port}"

    def size(self) -> int:
        """The bytes of memory that its data use."""
        import redis

        with redis.Redis(port=self.port) as it:
            return int(it.info("memory")["used_memory_dataset"])

    def kill(self) -> str:
        """End it, as an accident would."""
        self._process.kill()
        self._process.wait()
        return "the server is killed"
