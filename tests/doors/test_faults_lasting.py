"""Law F1 at every door when the store fails for good: from any call on."""

from __future__ import annotations

import pytest

from tests.doors.staged import CASES, Stage, errnos, judge


@pytest.mark.one_python
@pytest.mark.parametrize("on_error", ["deny", "admit"])
@pytest.mark.parametrize(
    ("door", "name"), [it for it in CASES if it[1] in ("register-fresh", "segment", "default-store")]
)
def test_f1_a_store_that_fails_for_good(script_root: str, door: str, name: str, on_error: str) -> None:
    """All calls from one on fail, so nothing can be given back or tidied up; no error is a lost race."""
    stage = Stage(script_root, door, name, on_error)
    struck = set()
    for call in range(1000):
        for number in errnos(call, on_error):
            ended = stage.play(call, number, is_lasting=True)
            if ended.target.startswith(f"{stage.place}/"):
                judge(stage, ended, number, is_lasting=True)
                struck.add(ended.struck)
        if not ended.struck:
            break
    assert struck == set(stage.scene.calls.split())
