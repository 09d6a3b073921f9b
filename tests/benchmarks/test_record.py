"""Two records of a benchmark: what became worse, judged by ratios to bare calls."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.record import Figure, read, write

pytestmark = pytest.mark.one_python


def test_a_figure_is_the_median_of_the_ratios_of_its_rounds() -> None:
    """A round in which the machine was slow changes nothing."""
    figure = Figure.of([10.0, 30.0, 11.0], [5.0, 15.0, 5.5])
    assert (figure.time, figure.ratio, figure.low, figure.high) == (11.0, 2.0, 2.0, 2.0)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    figures = {"a hit": Figure(10.0, 2.0, 1.9, 2.1)}
    write(tmp_path / "record", figures)
    assert read(tmp_path / "record")[1] == figures


@pytest.mark.parametrize(
    ("now", "verdict", "status"),
    [
        (Figure(99.0, 2.0, 1.9, 2.1), "", 0),  # a slower machine
        (Figure(10.0, 2.1, 2.0, 2.2), "", 0),
        (Figure(10.0, 2.4, 2.2, 2.6), "WORSE", 1),
        (Figure(10.0, 2.4, 2.0, 2.8), "", 0),  # the quartiles overlap
        (Figure(10.0, 1.0, 0.9, 1.1), "better", 0),
    ],
)
def test_a_figure_that_became_worse_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], now: Figure, verdict: str, status: int
) -> None:
    write(tmp_path / "old", {"this: a hit": Figure(10.0, 2.0, 1.9, 2.1), "gone": now})
    write(tmp_path / "new", {"this: a hit": now, "added": now})
    assert main(["compare", str(tmp_path / "old"), str(tmp_path / "new")]) == status
    lines = capsys.readouterr().out.splitlines()
    (line,) = [it for it in lines if it.startswith("this: a hit")]
    assert line.endswith(verdict or f"{now.ratio / 2:4.2f}")
    assert [it.split(" only")[0].strip() for it in lines if " only in " in it] == ["added", "gone"]
    assert lines[-1] == ("Worse: this: a hit" if status else "Nothing is worse.")


def test_a_peer_that_became_worse_is_only_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, ratio in (("old", 2.0), ("new", 4.0)):
        write(tmp_path / name, {"Redis: a hit": Figure(10.0, ratio, ratio - 0.1, ratio + 0.1)})
    assert main(["compare", str(tmp_path / "old"), str(tmp_path / "new")]) == 0
    output = capsys.readouterr().out
    assert "WORSE" in output
    assert output.endswith("\nNothing is worse.\n")


@pytest.mark.parametrize("text", [None, "", "{}", "[]", '{"commit": "x", "figures": {"a": {}}}'])
def test_what_is_no_record_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None
) -> None:
    if text is not None:
        (tmp_path / "it").write_text(text)
    assert main(["compare", str(tmp_path / "it"), str(tmp_path / "it")]) == 2
    assert f"{tmp_path}/it: expected a record" in capsys.readouterr().err
