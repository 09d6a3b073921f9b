#!/usr/bin/python3 -IS
"""systemctl for machines without systemd: the part that the scripts use, with the real units.

It reads ExecStart=, ExecStop=, ExecReload=, Type= and RemainAfterExit=.  Of enabled units it also reads
PartOf=, ReloadPropagatedFrom= and WantedBy=, if these name services.  ``systemctl default`` starts what
is enabled, when a machine starts.  The output of SERVICE is in /var/log/SERVICE.log.

The scripts often call it, and user-mode-linux is slow at loading a module.  So modules that only some
commands need are imported in those.
"""

import os
import sys

PLACES = ("/etc/systemd/system", "/usr/local/lib/systemd/system", "/lib/systemd/system")
WANTED = "/etc/systemd/laboratory.wants"  # what this machine itself has enabled is not in here
RUNNING = "/run/systemctl"


class Unit:
    def __init__(self, name: str) -> None:
        service = name.removesuffix(".service")
        self.name = f"{service}.service"
        kind, at, instance = service.partition("@")
        files = [f"{place}/{kind}{at}.service" for place in PLACES]
        self.file = next(filter(os.path.exists, files), "")
        if not self.file:
            sys.exit(f"systemctl: Unit {self.name} could not be found.")
        self._lines = _read(self.file).replace("\\\n", " ").replace("%i", instance).splitlines()
        self._state = f"{RUNNING}/{self.name}"
        self._log = f"/var/log/{service}.log"
        self.link = f"{WANTED}/{self.name}"

    def _all(self, key: str) -> "list[str]":
        return [line[len(key) + 1 :] for line in self._lines if line.startswith(f"{key}=")]

    @property
    def pid(self) -> int:
        (file,) = self._all("PIDFile") or [self._state]
        return int(_read(file) or 0)

    def is_active(self) -> bool:
        try:
            # A oneshot unit that remains after exit has no process.
            return not self.pid or _is_alive(self.pid)
        except FileNotFoundError:
            return False

    def others(self, key: str) -> "list[Unit]":
        """Return the enabled units that name this one under that key: they follow what is done with this
        one.
        """
        units = [Unit(name) for name in _wanted() if name != self.name]
        return [unit for unit in units if self.name in " ".join(unit._all(key)).split()]

    def enable(self) -> None:
        os.makedirs(WANTED, exist_ok=True)
        if not os.path.islink(self.link):
            os.symlink(self.file, self.link)

    def disable(self) -> None:
        if os.path.islink(self.link):
            os.unlink(self.link)

    def start(self) -> None:
        if not self.is_active():
            self._start()
        for unit in self.others("WantedBy"):
            unit.start()

    def _start(self) -> None:
        import subprocess

        os.makedirs(RUNNING, exist_ok=True)
        (kind,) = self._all("Type")[-1:] or ["simple"]
        pid = 0
        for command in self._commands("ExecStart"):
            with open(self._log, "ab") as log:
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            if kind in ("oneshot", "forking"):
                if process.wait():
                    sys.exit(f"systemctl: Job for {self.name} failed.")
            else:
                pid = process.pid
        if kind != "oneshot" or self._all("RemainAfterExit") == ["yes"]:
            with open(self._state, "w") as state:
                state.write(str(pid))

    def stop(self) -> None:
        import signal
        import subprocess
        import time

        for unit in self.others("PartOf"):
            unit.stop()
        if not self.is_active():
            return
        for command in self._commands("ExecStop"):
            subprocess.run(command, check=False)
        if self.pid:
            os.kill(self.pid, signal.SIGTERM)
            while _is_alive(self.pid):
                time.sleep(0.01)
        if os.path.exists(self._state):
            os.unlink(self._state)

    def reload(self) -> None:
        import subprocess

        for command in self._commands("ExecReload"):
            subprocess.run(command, check=True)
        for unit in self.others("ReloadPropagatedFrom"):
            if unit.is_active():
                unit.reload()

    def restart(self) -> None:
        parts = [unit for unit in self.others("PartOf") if unit.is_active()]
        self.stop()
        self.start()
        for unit in parts:
            unit.start()

    def _commands(self, key: str) -> "list[list[str]]":
        import re
        import shlex

        environ = dict(it.strip('"').split("=", 1) for it in self._all("Environment"))
        commands = []
        for line in self._all(key):
            text = re.sub(r"\$MAINPID", lambda _: str(self.pid), line.lstrip("-@:+!"))
            text = re.sub(r"\$(\w+)", lambda found: environ.get(found[1], ""), text)
            commands.append(shlex.split(text))
        return commands


def _read(file: str) -> str:
    with open(file) as text:
        return text.read()


def _wanted() -> "list[str]":
    """Return the services that are enabled."""
    names = os.listdir(WANTED) if os.path.exists(WANTED) else []
    return sorted(name for name in names if name.endswith(".service"))


def _is_alive(pid: int) -> bool:
    try:
        return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _main() -> None:
    what, *names = [word for word in sys.argv[1:] if not word.startswith("-")]
    if what == "daemon-reload":
        return
    if what == "default":
        what, names = "start", _wanted()
    for unit in map(Unit, names):
        if what == "is-active":
            sys.exit(not unit.is_active())
        if what == "is-enabled":
            sys.exit(not os.path.islink(unit.link))
        if what not in ("enable", "disable", "start", "stop", "reload", "restart"):
            sys.exit(f"systemctl: not in this laboratory: {' '.join(sys.argv[1:])}")
        getattr(unit, what)()
        if "--now" in sys.argv:
            (unit.start if what == "enable" else unit.stop)()


_main()
