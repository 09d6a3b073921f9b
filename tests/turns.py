"""Actions that go on at once, and whose calls fall in an order that is set: each one is a greenlet."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from greenlet import getcurrent, greenlet


def wait() -> None:
    """Before a call: stop until it is the turn of the action that makes it.  Elsewhere, do nothing."""
    player = getcurrent().parent
    if player is not None:
        player.switch()


def play(
    actions: Sequence[Callable[[], object]], choose: Callable[[int, int], int]
) -> tuple[list[object], list[int]]:
    """The answers, or errors, and how many choices there were at each turn; ``choose(turn, choices)``.

    Choice 0 is that the action goes on which had the last turn, if it can.
    """
    answers: list[object] = [None] * len(actions)

    def act(number: int) -> None:
        try:
            answers[number] = actions[number]()
        except Exception as error:
            answers[number] = error

    players = [greenlet(act) for _ in actions]
    for number, player in enumerate(players):
        player.switch(number)
    choices: list[int] = []
    last = -1
    while ready := [number for number, player in enumerate(players) if not player.dead]:
        if last in ready:
            ready.remove(last)
            ready.insert(0, last)
        last = ready[choose(len(choices), len(ready))]
        choices.append(len(ready))
        players[last].switch()
    return answers, choices
