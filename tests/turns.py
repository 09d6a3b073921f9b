"""Concurrent actions whose calls run in a chosen order: each action is a greenlet."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from greenlet import getcurrent, greenlet


def wait() -> None:
    """Before a call: stop until it is this action's turn.  Outside ``play``, do nothing."""
    player = getcurrent().parent
    if player is not None:
        player.switch()


def play(
    actions: Sequence[Callable[[], object]], choose: Callable[[int, int], int]
) -> tuple[list[object], list[int]]:
    """Play actions in the order that ``choose(turn, choices)`` picks.

    Return their results or exceptions, and how many choices there were at each turn.  Choice 0 continues
    the action that had the last turn, if it can go on.
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
