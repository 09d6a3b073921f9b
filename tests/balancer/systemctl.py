#!/usr/bin/python3
"""systemctl where no systemd runs: as much of it as the scripts ask for, with the units as they are.

It reads ExecStart=, ExecStop=, ExecReload=, Type= and RemainAfterExit=; and of what is enabled PartOf=,
ReloadPropagatedFrom= and WantedBy=, as far as these name services.  What is enabled is started by
``systemctl default``, when a machine starts.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

PLACES = ("/etc/systemd/system", "/usr/local/lib/systemd/system", "/lib/systemd/system")
WANTED = Path("/etc/systemd/laboratory.wants")  # what this machine itself has enabled is none of theirs
RUNNING = Path("/run/systemctl")


class Unit:
    def __init__(self, name: str) -> None:
        self.name = name if name.endswith(".service") else f"{name}.service"
        files = [Path(place, self.name) for place in PLACES]
        self.file = next((file for file in files if file.exists()), None)
        if self.file is None:
            sys.exit(f"systemctl: Unit {self.name} could not be found.")
        self._text = re.sub(r"\\\n", " ", self.file.read_text())
        self._state = RUNNING / self.name
        self.link = WANTED / self.name

    def _all(self, key: str) -> "list[str]":
        return re.findall(rf"^{key}=(.*)$", self._text, re.MULTILINE)

    @property
    def pid(self) -> int:
        (file,) = self._all("PIDFile") or [str(self._state)]
        return int(Path(file).read_text() or 0)

    def is_active(self) -> bool:
        try:
            # What remains after it has exited has no process.
            return not self.pid or _is_alive(self.pid)
        except FileNotFoundError:
            return False

    def others(self, key: str) -> "list[Unit]":
        """Those enabled that name this one there: what is done with this one is done with them, too."""
        links = sorted(WANTED.glob("*.service")) if WANTED.exists() else []
        units = [Unit(link.name) for link in links if link.name != self.name]
        return [unit for unit in units if self.name in " ".join(unit._all(key)).split()]

    def start(self) -> None:
        if not self.is_active():
            self._start()
        for unit in self.others("WantedBy"):
            unit.start()

    def _start(self) -> None:
        RUNNING.mkdir(exist_ok=True)
        (kind,) = self._all("Type")[-1:] or ["simple"]
        pid = 0
        for command in self._commands("ExecStart"):
            with open(f"{self._state}.journal", "ab") as journal:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=journal,
                    stderr=journal,
                    start_new_session=True,
                )
            if kind in ("oneshot", "forking"):
                if process.wait():
                    sys.exit(f"systemctl: Job for {self.name} failed.")
            else:
                pid = process.pid
        if kind != "oneshot" or self._all("RemainAfterExit") == ["yes"]:
            self._state.write_text(str(pid))

    def stop(self) -> None:
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
        self._state.unlink(missing_ok=True)

    def reload(self) -> None:
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
        environ = dict(it.strip('"').split("=", 1) for it in self._all("Environment"))
        commands = []
        for line in self._all(key):
            text = re.sub(r"\$MAINPID", lambda _: str(self.pid), line.lstrip("-@:+!"))
            text = re.sub(r"\$(\w+)", lambda found: environ.get(found[1], ""), text)
            commands.append(shlex.split(text))
        return commands


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _main() -> None:
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    now = "--now" in sys.argv
    what, names = words[0], words[1:]
    if what == "daemon-reload":
        return
    if what == "default":
        names = [link.name for link in WANTED.glob("*.service")] if WANTED.exists() else []
        what = "start"
    for unit in map(Unit, names):
        if what == "is-active":
            sys.exit(not unit.is_active())
        elif what == "is-enabled":
            sys.exit(not unit.link.is_symlink())
        elif what == "enable":
            WANTED.mkdir(parents=True, exist_ok=True)
            if not unit.link.is_symlink():
                unit.link.symlink_to(str(unit.file))
        elif what == "disable":
            unit.link.unlink(missing_ok=True)
        elif what in ("start", "stop", "reload", "restart"):
            getattr(unit, what)()
        else:
            sys.exit(f"systemctl: not in this laboratory: {' '.join(sys.argv[1:])}")
        if now and what == "enable":
            unit.start()
        elif now:
            unit.stop()


_main()
