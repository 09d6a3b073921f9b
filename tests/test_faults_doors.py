"""Law F1 at every door: whatever call fails, and how, the verdict is the one that is configured."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import limiter.action
import limiter.asgi
import limiter.cgi
import limiter.cli
import limiter.response
import limiter.rewritemap
import limiter.wsgi
from limiter.handover import Handover
from limiter.limiter import Limiter
from limiter.register import UNLIMITED, put
from tests.faults import HARD, PASSING, SOFT, Ended, fail, play, use

NOBODY = 65534
THROUGH = b"through"
"""What is behind every door that guards something."""
TYPE = b"Content-Type: text/plain\n\n"
SCRIPT = f"#!/bin/sh\nprintf '{TYPE.decode()}{THROUGH.decode()}'\n".replace("\n\n", "\\n\\n")

Play = Callable[[dict[str, str]], None]
Message = MutableMapping[str, Any]


# The doors: each is played with some settings in a child, and tells on standard output what it answers.


def _check(variables: dict[str, str]) -> None:
    use(variables)
    limiter.cgi.check()


def _guard(variables: dict[str, str]) -> None:
    use(variables)
    limiter.cgi.guard()
    os.write(1, TYPE + THROUGH)


def _action(variables: dict[str, str]) -> None:
    use(variables)
    sys.argv = ["guard.py"]
    limiter.action.run()


def _of_action(script: str) -> dict[str, str]:
    """What mod_actions tells of a script."""
    url = f"/{os.path.basename(script)}"
    return {
        "REDIRECT_HANDLER": "limited",
        "REDIRECT_URL": url,
        "PATH_INFO": url,
        "PATH_TRANSLATED": script,
    }


def _wsgi(variables: dict[str, str]) -> None:
    use({})

    def start_response(status: str, headers: list[tuple[str, str]], _: object = None) -> Any:
        _print_response(status, headers)

    def application(_: object, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [THROUGH]

    door = limiter.wsgi.RateLimit(application)
    environ: dict[str, Any] = {**variables, "wsgi.errors": sys.stderr}
    os.write(1, b"".join(door(environ, start_response)))


def _asgi(variables: dict[str, str]) -> None:
    use(variables)

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [(name.decode(), value.decode()) for name, value in message["headers"]]
            _print_response(str(message["status"]), headers)
        else:
            os.write(1, message["body"])

    async def receive() -> Message:
        raise AssertionError("nobody reads the body")

    async def application(_: object, __: object, send: Callable[[Message], Awaitable[None]]) -> None:
        headers = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": THROUGH})

    door = limiter.asgi.RateLimit(application)
    query = variables["QUERY_STRING"].encode()
    scope = {"type": "http", "method": "GET", "headers": [], "query_string": query}
    asyncio.run(door(scope, receive, send))


def _print_response(status: str, headers: list[tuple[str, str]]) -> None:
    fields = [("Status", status), *headers]
    os.write(1, "".join([f"{name}: {value}\n" for name, value in fields]).encode() + b"\n")


def _rewritemap(variables: dict[str, str]) -> None:
    use({})
    sys.argv = ["rewritemap", *[f"{name}={value}" for name, value in variables.items()]]
    line = f"192.0.2.1 {variables['QUERY_STRING']} \n".encode()
    sys.stdin = io.TextIOWrapper(io.BytesIO(line))
    limiter.rewritemap.main(Handover())


def _hit(variables: dict[str, str]) -> None:
    use(variables)
    sys.argv = ["limiter", "hit", "acme"]
    status = limiter.cli.main()
    sys.stdout.flush()
    os._exit(status)


DOORS: dict[str, Play] = {
    "check": _check,
    "guard": _guard,
    "action": _action,
    "wsgi": _wsgi,
    "asgi": _asgi,
    "rewritemap": _rewritemap,
    "hit": _hit,
}
GUARDS = ("guard", "action", "wsgi", "asgi")
"""Those behind which there is something that answers those who are admitted."""


def _open(door: str, variables: dict[str, str]) -> None:
    """Play a door, with standard output and error that are the child's own."""
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, closefd=False)
    DOORS[door](variables)


# What a door has answered


def _status(door: str, ended: Ended) -> str:
    """The status that a door has answered, of which nothing may be missing or too much."""
    assert not ended.killed
    assert b"Traceback" not in ended.output + ended.log
    assert b"<" not in ended.output
    if door == "hit":
        return _status_of_hit(ended)
    assert ended.code == 0
    if door == "rewritemap":
        found = re.fullmatch(rb'(200|401|429|500)\|((".*)?\|(".*)?)\|(\d*)\n', ended.output)
        assert found, ended.output
        assert bool(found[5]) == (found[1] == b"429")
        assert found[1] in (b"200", b"429") or found[2] == b"|"
        return found[1].decode()
    return _status_of_response(door, ended.output.decode())


def _status_of_hit(ended: Ended) -> str:
    if ended.code == 2:
        assert ended.output == b""
        return "401" if b"(401)" in ended.log else "500"
    assert re.fullmatch(
        rb"acme: unlimited\n|acme: (allowed|denied, retry after [\d.]+ s)\n(  .* used.*\n)+",
        ended.output,
    )
    assert (b"denied" in ended.output) == (ended.code == 1)
    return ["200", "429"][ended.code]


def _status_of_response(door: str, output: str) -> str:
    head, separator, body = output.partition("\n\n")
    assert separator, output
    pairs = [line.partition(": ")[::2] for line in head.split("\n")]
    assert all(re.fullmatch("[A-Za-z-]+", name) and value for name, value in pairs), head
    fields = {name.lower(): value for name, value in pairs}
    assert len(fields) == len(pairs), head
    status = fields.get("status", "200")[:3]
    if door in GUARDS and status == "200":
        assert body == THROUGH.decode()
        assert fields["content-type"] == "text/plain"
        return status
    assert fields["content-type"] == "application/json; charset=utf-8"
    assert int(fields.get("content-length", len(body))) == len(body)
    message = {"200": "OK", "401": "Unauthorized", "404": "Not Found", "429": "Too Many Requests"}
    assert json.loads(body) == {"message": message.get(status, "Internal Server Error")}
    assert ("retry-after" in fields) == (status == "429")
    return status


# The scenes: what a request finds, and what it is then answered.


@dataclass
class Scene:
    """``status`` is answered by the limits, of which ``before`` hits are counted already, by ``calls`` to
    the store and the register.  ``entries`` are the register's; without them there is none.
    """

    status: str
    limits: str
    before: int
    calls: str
    entries: dict[str, str] | None = None
    is_default_store: bool = False

    @property
    def in_force(self) -> str:
        """The limits that hold."""
        return next(iter(self.entries.values())) if self.entries else self.limits

    @property
    def counts(self) -> int:
        """The hits that are counted if nothing fails."""
        return int(self.status == "200" and self.in_force != UNLIMITED)


EVERYBODY = {"acme": "1/hour", ".default": "1/hour"}
FURNISH = "listdir mkdir open close rename lstat"
SCENES = {
    "fresh": Scene("200", "2/hour", 0, FURNISH),
    "furnished": Scene("200", "3/hour", 1, "listdir rename"),
    "full": Scene("429", "3/hour", 3, "listdir"),
    "segment": Scene("200", "65/hour", 64, FURNISH),
    "full-segments": Scene("429", "65/hour", 65, "listdir"),
    "two-limits": Scene("200", "3/hour;4/day burst 5", 1, "listdir rename"),
    "register-fresh": Scene("200", "0/second", 0, f"readlink {FURNISH}", EVERYBODY),
    "register-full": Scene("429", "9/second", 1, "readlink listdir", EVERYBODY),
    "register-default": Scene("200", "0/second", 1, "readlink listdir rename", {".default": "2/hour"}),
    "unlimited": Scene("200", "0/second", 0, "readlink", {"acme": UNLIMITED, ".default": UNLIMITED}),
    "stranger": Scene("401", "9/second", 0, "readlink stat", {}),
    "default-store": Scene("200", "1/hour", 0, FURNISH, is_default_store=True),
}


class Stage:
    """Where one scene is played at one door again and again, each time as if for the first."""

    def __init__(self, root: str, door: str, name: str, on_error: str) -> None:
        self.door = door
        self.scene = SCENES[name]
        self.on_error = on_error
        self._root = root
        self.place = root
        self._times = 0

    def play(self, call: int, number: int, is_lasting: bool = False) -> Ended:
        """What the door answers if that call fails with that errno, and all later ones to the store, too."""
        variables = self.lay_out()
        played = partial(_open, self.door, variables)
        return play(played, call, fail(number), self.place if is_lasting else None)

    def lay_out(self) -> dict[str, str]:
        """Lay out the store and the register; the variables of a request."""
        self._times += 1
        self.place = f"{self._root}/{self._times}"
        for path in (self.place, f"{self.place}/store", f"{self.place}/register"):
            os.mkdir(path)
        for name, text in (self.scene.entries or {}).items():
            put(f"{self.place}/register", name, text)
        if self.scene.before:
            assert Limiter(self._store, self.scene.in_force).hit("acme", self.scene.before)
        _give_away(self.place)
        return {
            "LIMITER_ROOT": "" if self.scene.is_default_store else self._store,
            "LIMITER_LIMIT": self.scene.limits,
            "LIMITER_ON_ERROR": self.on_error,
            "LIMITER_APPS": "" if self.scene.entries is None else f"{self.place}/register",
            "LIMITER_TIMEOUT": "60",
            "TMPDIR": self.place,
            "REQUEST_METHOD": "GET",
            "QUERY_STRING": "app_id=acme",
            **_of_action(f"{self._root}/script"),
        }

    @property
    def _store(self) -> str:
        name = f"limiter-{os.geteuid()}" if self.scene.is_default_store else "store"
        return f"{self.place}/{name}"

    @property
    def counted(self) -> set[int]:
        """The hits that the limits count now."""
        if self.scene.in_force == UNLIMITED or not os.path.exists(self._store):
            return {0}
        quotas = Limiter(self._store, self.scene.in_force).peek("acme").quotas
        return {quota.limit.quota - quota.remaining for quota in quotas}

    @property
    def rubbish(self) -> list[str]:
        """What an attempt to furnish has left."""
        return [
            name for _, names, _ in os.walk(self.place) for name in names if name.startswith(".new-")
        ]


def _give_away(place: str) -> None:
    """Let everything belong to nobody: as root the RewriteMap's program touches no store of root's."""
    if os.geteuid() == 0:
        for path in [Path(place), *Path(place).rglob("*")]:
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


@pytest.fixture
def script_root(root: str) -> str:
    """A root with a script in it, which the door for Apache's Action becomes."""
    script = Path(root, "script")
    script.write_text(SCRIPT)
    script.chmod(0o755)
    return root


# The law


def _judge(stage: Stage, ended: Ended, number: int, is_lasting: bool = False) -> None:
    """Whatever was struck: a whole answer of the right status, and a line if it is for a failure."""
    if (ended.struck, ended.target) == ("write", "1"):
        _judge_unwritten(ended)
        return
    if (stage.door, ended.struck, ended.target) == ("hit", "write", "2"):
        assert (ended.code, ended.output, ended.log) == (2, b"", b""), "the status tells it all the same"
        return
    status = _status(stage.door, ended)
    if not ended.struck:
        _judge_undisturbed(stage, status, ended)
    elif ended.target.startswith(f"{stage.place}/"):
        _judge_store_failed(stage, status, ended, number, is_lasting)
    else:
        _judge_own_failed(stage, status, ended, number)


def _judge_unwritten(ended: Ended) -> None:
    """Nobody can be answered any more: not a byte is, the process ends well, and a line says why."""
    assert ended.output == b""
    assert ended.code == 0
    assert ended.log.count(b"\n") == 1
    assert b"Traceback" not in ended.log


def _reason(ended: Ended) -> bytes:
    """What the log says of a failure.  To the command line a stranger is a mistake, too."""
    return b"" if b"(401)" in ended.log else ended.log


def _judge_undisturbed(stage: Stage, status: str, ended: Ended) -> None:
    assert status == stage.scene.status
    assert not _reason(ended)
    assert stage.counted == {stage.scene.before + stage.scene.counts}


def _judge_store_failed(stage: Stage, status: str, ended: Ended, number: int, is_lasting: bool) -> None:
    """The verdict that is configured, or, if only a race was lost or the fault passed, the same as ever."""
    if number in PASSING and not is_lasting:
        _judge_undisturbed(stage, status, ended)
        assert stage.rubbish == []
        return
    if number in SOFT and not _reason(ended) and not is_lasting:
        is_default = ended.struck.startswith("readlink") and ended.target.endswith("/.default")
        if is_default and number == errno.ENOENT:
            assert status == "401", "the entry for everybody is gone"
            return
        _judge_undisturbed(stage, status, ended)
        return
    admits = stage.on_error == "admit" and stage.door != "hit"
    assert status == ("200" if admits else "500")
    assert b"RateLimit" not in ended.output, "nobody knows where the limits stand"
    assert ended.log.count(b"\n") == 1
    assert b"[Errno " in ended.log
    assert stage.place.encode() in ended.log, "the line names the path"
    if number in HARD + PASSING:
        assert b"[Errno %d] " % number in ended.log
    if not is_lasting:
        assert stage.counted == {stage.scene.before}
        assert stage.rubbish == []


def _judge_own_failed(stage: Stage, status: str, ended: Ended, number: int) -> None:
    """What the server or its script asks for has nothing to do with the store, nor LIMITER_ON_ERROR."""
    assert stage.door == "action"
    if ended.struck == "stat" and number in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
        assert (status, ended.log) == ("404", b"")
        return
    assert status == "500"
    assert ended.log.count(b"\n") == 1
    assert b"[Errno %d] " % number in ended.log


CASES = [
    (door, name)
    for door in DOORS
    for name, scene in SCENES.items()
    # As root it wants a store of its user's, and the default one is root's.
    if not (door == "rewritemap" and scene.is_default_store)
]


def _errnos(at: int, on_error: str) -> list[int]:
    """What to strike with there, for all at every place would take too long (test_laws.py does it for check).

    All that may pass, two of those that may only say that a race was lost, and one that cannot, others at each place;
    where failures are admitted, which changes nothing of how they are found, the last and one of the others.
    """
    soft = [SOFT[(2 * at + one) % len(SOFT)] for one in (0, 1)]
    numbers = [*PASSING, *soft, HARD[at % len(HARD)]]
    return numbers if on_error == "deny" else [numbers[at % 4], numbers[-1]]


@pytest.mark.one_python
@pytest.mark.parametrize("on_error", ["deny", "admit"])
@pytest.mark.parametrize(("door", "name"), CASES)
def test_f1_every_call_at_every_door(script_root: str, door: str, name: str, on_error: str) -> None:
    stage = Stage(script_root, door, name, on_error)
    case = CASES.index((door, name))
    struck = set()
    for call in range(1000):
        for number in _errnos(case + call, on_error):
            ended = stage.play(call, number)
            _judge(stage, ended, number)
            if not ended.struck:
                break
        if not ended.struck:
            break
        if ended.target.startswith(f"{stage.place}/"):
            struck.add(ended.struck)
    assert struck == set(stage.scene.calls.split())


@pytest.mark.one_python
@pytest.mark.parametrize("on_error", ["deny", "admit"])
@pytest.mark.parametrize(
    ("door", "name"), [it for it in CASES if it[1] in ("register-fresh", "segment", "default-store")]
)
def test_f1_a_store_that_fails_for_good(script_root: str, door: str, name: str, on_error: str) -> None:
    """From any call on, so that nothing can be given back or tidied up; and no error is a lost race."""
    stage = Stage(script_root, door, name, on_error)
    struck = set()
    for call in range(1000):
        for number in _errnos(call, on_error):
            ended = stage.play(call, number, is_lasting=True)
            if ended.target.startswith(f"{stage.place}/"):
                _judge(stage, ended, number, is_lasting=True)
                struck.add(ended.struck)
        if not ended.struck:
            break
    assert struck == set(stage.scene.calls.split())


# What is not the store's


@pytest.mark.parametrize("on_error", ["deny", "admit"])
@pytest.mark.parametrize("number", HARD + SOFT, ids=errno.errorcode.__getitem__)
def test_a_form_that_cannot_be_read(root: str, number: int, on_error: str) -> None:
    """Nobody knows who asks: 500, whatever is to be done when the store fails."""
    stage = Stage(root, "check", "furnished", on_error)
    form = {
        "REQUEST_METHOD": "POST",
        "QUERY_STRING": "",
        "CONTENT_TYPE": "application/x-www-form-urlencoded",
        "CONTENT_LENGTH": "11",
    }
    variables = {**stage.lay_out(), **form}

    def ask() -> None:
        with open(f"{root}/form", "w+b") as body:
            body.write(b"app_id=acme")
            body.seek(0)
            os.dup2(body.fileno(), 0)
        _check(variables)

    ended = play(ask, 0, fail(number))
    assert (ended.struck, ended.target) == ("read", "0")
    assert _status("check", ended) == "500"
    assert ended.log.count(b"\n") == 1
    assert b"[Errno %d] " % number in ended.log
    assert stage.counted == {1}
    assert _status("check", play(ask, 1000, fail(number))) == "200"
    assert stage.counted == {2}


@pytest.mark.parametrize("on_error", ["deny", "admit"])
@pytest.mark.parametrize("door", DOORS)
def test_a_log_that_is_full_changes_no_verdict(script_root: str, door: str, on_error: str) -> None:
    stage = Stage(script_root, door, "furnished", on_error)
    variables = stage.lay_out()

    def ask() -> None:
        os.dup2(os.open("/dev/full", os.O_WRONLY), 2)
        _open(door, variables)

    ended = _play_until_the_store_fails(stage, ask)
    admits = on_error == "admit" and door != "hit"
    assert _status(door, ended) == ("200" if admits else "500")


@pytest.mark.parametrize("on_error", ["deny", "admit"])
@pytest.mark.parametrize("door", [door for door in DOORS if door != "hit"])
def test_a_journal_has_the_one_line(script_root: str, door: str, on_error: str) -> None:
    """As JSON, wherever LIMITER_LOG says."""
    stage = Stage(script_root, door, "furnished", on_error)
    variables = {**stage.lay_out(), "LIMITER_LOG": "stderr"}
    ended = _play_until_the_store_fails(stage, partial(_open, door, variables))
    assert _status(door, ended) == ("200" if on_error == "admit" else "500")
    assert ended.log.count(b"\n") == 1
    assert f"[Errno {errno.EIO}] " in json.loads(ended.log)["reason"]


def _play_until_the_store_fails(stage: Stage, ask: Callable[[], None]) -> Ended:
    """The answer when EIO strikes the first call to the store."""
    for call in range(1000):
        ended = play(ask, call, fail(errno.EIO))
        if ended.target.startswith(f"{stage.place}/"):
            return ended
    raise AssertionError("nothing is asked of the store")


@pytest.mark.parametrize("on_error", ["deny", "admit"])
@pytest.mark.parametrize("door", DOORS)
def test_no_thread_is_to_be_had(script_root: str, door: str, on_error: str) -> None:
    """EAGAIN, by the real kernel: the store cannot be asked, which is a failure like any other."""
    stage = Stage(script_root, door, "furnished", on_error)
    variables = stage.lay_out()

    def ask() -> None:
        if os.geteuid() == 0:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        _open(door, variables)

    ended = play(ask, 1000, fail(errno.EIO))
    status = _status(door, ended)
    if door == "hit":  # which waits for the store as long as it takes
        assert (status, ended.log) == ("200", b"")
        return
    assert status == ("200" if on_error == "admit" else "500")
    assert ended.log.count(b"\n") == 1
    assert b"thread" in ended.log


# By the real kernel: strace lets calls of the real scripts fail.


@dataclass
class KernelCall:
    """A call to the store, of a path relative to the stage's place.

    It is the one of that ``ordinal`` among those of its name that its thread makes; or, of those, that
    concern this path.
    """

    name: str
    path: str
    ordinal: int
    is_among_its_paths: bool


def _strace(program: Path, variables: dict[str, str], trace: Path, *options: str) -> Ended:
    process = subprocess.run(
        ["strace", "-f", "--quiet=all", "-o", trace, *options, program],
        env={name: value for name, value in variables.items() if value},
        capture_output=True,
        check=False,
        timeout=60,
    )
    return Ended("", "", process.returncode < 0, process.returncode, process.stdout, process.stderr)


def _kernel_calls(stage: Stage, program: Path, trace: Path) -> list[KernelCall]:
    """Each call to the store or the register that can be told apart, when nothing fails.

    strace counts in each thread for itself, and guard.py has one for the store beside the one that has
    loaded Python: what both have called so often is told apart by its path, if that can be foretold.
    """
    _judge(stage, _strace(program, stage.lay_out(), trace, "-y", "-s", "4096"), 0)
    made: Counter[tuple[str, str]] = Counter()
    own: list[tuple[str, str, str, int]] = []
    for thread, name, arguments in re.findall(r"(?m)^(\d+) +(\w+)\((.*)", trace.read_text()):
        made[name, thread] += 1
        found = re.search(rf'[<"]{stage.place}/([^>"]*)[>"]', arguments)
        if found:
            own.append((thread, name, found[1], made[name, thread]))
    calls = []
    by_path: Counter[tuple[str, str]] = Counter()
    for thread, name, path, ordinal in own:
        by_path[name, path] += 1
        others = [times for (it, other), times in made.items() if it == name and other != thread]
        if max(others, default=0) < ordinal:
            calls.append(KernelCall(name, path, ordinal, False))
        elif not path.startswith("store/.new-"):
            calls.append(KernelCall(name, path, by_path[name, path], True))
    return calls


@pytest.mark.one_python
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("on_error", ["deny", "admit"])
@pytest.mark.parametrize("name", ["register-fresh", "furnished", "full", "stranger"])
@pytest.mark.parametrize(("door", "script"), [("check", "check.py"), ("action", "guard.py")])
def test_f1_by_the_real_kernel(
    installed: Path, script_root: str, tmp_path: Path, door: str, script: str, name: str, on_error: str
) -> None:
    stage = Stage(script_root, door, name, on_error)
    program, trace = installed / "cgi-bin" / script, tmp_path / "trace"
    calls = _kernel_calls(stage, program, trace)
    assert len(calls) >= len(stage.scene.calls.split())
    for at, call in enumerate(calls):
        for number in _errnos(at, on_error):
            variables = stage.lay_out()
            path = f"{stage.place}/{call.path}"
            options = ["-P", path] if call.is_among_its_paths else []
            options += ["-e", f"inject={call.name}:error={errno.errorcode[number]}:when={call.ordinal}"]
            ended = _strace(program, variables, trace, *options)
            assert trace.read_text().count("(INJECTED)") == 1
            # A directory that cannot be closed has been read all the same: to that, nothing was done.
            if call.name != "close" or not os.path.isdir(path):
                ended.struck, ended.target = call.name, path
            _judge(stage, ended, number)


# Each is seen to fail.


def _swallow(_: object) -> bool:
    """Take every error for a lost race."""
    return True


def _call(function: Callable[..., object], *arguments: object) -> object:
    """Call it once, come what may."""
    return function(*arguments)


def _give_up(error: Exception, _: object) -> None:
    """Take every fault for a lasting one."""
    raise error


def _keep(*_: object) -> None:
    """Give nothing back, or tidy up nothing."""


def _as_lost(error: OSError, _: str) -> OSError:
    """Take every error for one that says that there is no such entry."""
    return FileNotFoundError(*error.args)


def _as_text(error: Exception) -> str:
    """Leave out which error it was."""
    return type(error).__name__


def _halve(data: bytes) -> None:
    """Write half of an answer."""
    os.write(1, data[: len(data) // 2])


def _write_page(data: bytes) -> None:
    """Write HTML behind an answer."""
    os.write(1, data + b"<p>")


def _print_traceback(reason: str) -> None:
    """Log where it happened, too."""
    os.write(2, f"{reason}\nTraceback\n".encode())


def _answer_ok(*_: object) -> tuple[str, None]:
    """Admit whoever could not be judged, and say nothing."""
    return limiter.response.OK, None


@pytest.mark.parametrize(
    ("door", "name", "on_error", "sabotaged", "sabotage"),
    [
        ("guard", "furnished", "deny", "limiter.store.is_lost", _swallow),
        ("wsgi", "furnished", "deny", "limiter.retry.PASSING", ()),
        ("check", "register-fresh", "deny", "limiter.register.patiently", _call),
        ("hit", "fresh", "deny", "limiter.hit._survive", _give_up),
        ("wsgi", "register-fresh", "admit", "limiter.register.failure", _as_lost),
        ("hit", "two-limits", "deny", "limiter.hit._give_back", _keep),
        ("asgi", "fresh", "deny", "limiter.furnish._discard", _keep),
        ("rewritemap", "full", "deny", "limiter.verdict.describe", _as_text),
        ("check", "full", "deny", "limiter.cgi.write", _halve),
        ("action", "full", "deny", "limiter.cgi.write", _write_page),
        ("guard", "stranger", "deny", "limiter.cgi.log", _print_traceback),
        ("rewritemap", "furnished", "admit", "limiter.rewritemap.log", _keep),
        ("wsgi", "full", "deny", "limiter.verdict.fail", _answer_ok),
        ("asgi", "unlimited", "admit", "limiter.verdict.StoreError", ZeroDivisionError),
        ("hit", "default-store", "deny", "limiter.furnish.StoreError", ZeroDivisionError),
    ],
)
def test_f1_at_a_door_is_seen_to_fail(
    script_root: str,
    monkeypatch: pytest.MonkeyPatch,
    door: str,
    name: str,
    on_error: str,
    sabotaged: str,
    sabotage: object,
) -> None:
    monkeypatch.setattr(sabotaged, sabotage)
    with pytest.raises(AssertionError):
        test_f1_every_call_at_every_door(script_root, door, name, on_error)
