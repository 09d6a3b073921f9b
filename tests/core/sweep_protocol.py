"""A model of hits and sweepers on one directory of slots (docs/store-format.md): play every interleaving.

One process may be killed at any point.  All of it happens within one window, after long idleness.  A name
is (stamp, slot), or ("gone", stamp, slot) for a mark.  A stamp begins with "o" if the slot is free and
idle, with "b" if it was furnished, with "r" if it was given back (both are free, but not idle), and with
"h" if it is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Optional

Name = tuple[Any, ...]
Names = Optional[frozenset[Name]]
"""The names in the directory.  None: there is no directory."""

Process = tuple[str, str, Any]
"""What it is ("hit" or "sweep"), its next call, and what it knows for this call."""

Step = tuple[Process, Names, int, int]
"""What one call may lead to: the process, the names, the next number for a stamp, the hits admitted."""

_MOST_STAMPS = 6


@dataclass
class Protocol:
    """So many processes on so many slots.

    ``cost`` is how many slots each hit needs.  If ``several``, it also needs some of another limit: it
    may have to give back what it has claimed here.  ``broken`` is what is done wrong: any-slot (a hit
    wakes an idle directory by any of its slots), same-name or idle-name (a slot that is given back has
    the name that it had, or another idle one), zero-stamp (all furnished slots have the same names).
    """

    slots: int = 2
    hits: int = 2
    sweepers: int = 1
    cost: int = 1
    several: bool = False
    broken: str = ""

    def play(self) -> tuple[int, int, int]:
        """Return how many states there are, the most hits admitted, and how many ends have lost slots."""
        processes = (*[("hit", "list", None)] * self.hits, *[("sweep", "list", None)] * self.sweepers)
        todo: list[Any] = [(processes, frozenset(("o", slot) for slot in range(self.slots)), 0, 0, 1)]
        seen, most, short = set(), 0, 0
        while todo:
            state = todo.pop()
            if state in seen or state[2] > _MOST_STAMPS:
                continue
            seen.add(state)
            following = [*self._following(*state)]
            todo += following
            _, names, _, admitted, kills = state
            most = max(most, admitted)
            if not following:
                left = self._room(names)
                most = max(most, admitted + left)
                # One that was killed between its claims has used these up.
                short += admitted + left < self.slots - (0 if kills else self.cost - 1 + self.several)
        return len(seen), most, short

    def _following(
        self, processes: tuple[Process, ...], names: Names, stamps: int, admitted: int, kills: int
    ) -> Iterator[Any]:
        """Yield the states after one more call of one process, or after its death."""
        for me, process in enumerate(processes):
            if process[1] == "done":
                continue
            before, after = processes[:me], processes[me + 1 :]
            for new, *rest in self._steps(me, process, names, stamps, admitted):
                yield (*before, new, *after), *rest, kills
            if kills:
                yield (*before, (process[0], "done", None), *after), names, stamps, admitted, kills - 1

    def _steps(
        self, me: int, process: Process, names: Names, stamps: int, admitted: int
    ) -> Iterator[Step]:
        kind, call, known = process
        there = names or frozenset()
        if call == "list":
            choices = self._hit_chooses(there) if kind == "hit" else self._sweeper_chooses(there)
            for chosen in choices:
                yield (kind, *chosen), names, stamps, admitted
        elif call == "furnish":
            stamp = "o" if self.broken == "zero-stamp" else f"b{stamps}"
            furnished = names or frozenset((stamp, slot) for slot in range(self.slots))
            yield (kind, "list", None), furnished, stamps + 1, admitted
        elif call == "claim":
            yield from self._claim(me, known, names, stamps, admitted)
        elif call == "return":
            (taken, slot), *rest = known
            if taken in there:
                back = {"same-name": slot, "idle-name": (f"o{stamps}", slot[1])}
                names = there - {taken} | {back.get(self.broken, (f"r{stamps}", slot[1]))}
            yield (kind, "return" if rest else "list", tuple(rest) or None), names, stamps + 1, admitted
        elif call == "mark":
            lowest, rest = known
            mark = ("gone", *lowest)
            if lowest in there:
                yield (kind, "clear", (*rest, mark)), there - {lowest} | {mark}, stamps, admitted
            else:
                yield (kind, "done", None), names, stamps, admitted
        elif known:  # clear: slots first, the mark last, then the directory if it is empty
            first, *rest = sorted(known, key=lambda name: (not _is_slot(name), name))
            yield (kind, "clear", tuple(rest)), names and names - {first}, stamps, admitted
        else:
            yield (kind, "list" if kind == "hit" else "done", None), names or None, stamps, admitted

    def _sweeper_chooses(self, names: frozenset[Name]) -> Iterator[tuple[str, Any]]:
        idle = {name for name in names if name[0][0] == "o"}
        lowest = {name for name in idle if name[1] == 0}
        if _is_gone(names):
            yield "clear", tuple(sorted(names))
        elif lowest and idle == names:
            yield "mark", (*lowest, tuple(sorted(names - lowest)))
        else:
            yield "done", None

    def _hit_chooses(self, names: frozenset[Name]) -> Iterator[tuple[str, Any]]:
        if not names:
            yield "furnish", None
        elif _is_gone(names):
            yield "clear", tuple(sorted(names))
        elif len(_free(names)) < self.cost:
            yield "done", None
        else:
            for slot in self._first(names):
                yield "claim", (slot, ())

    def _first(self, names: frozenset[Name]) -> list[Name]:
        """The slots of which a hit claims one first."""
        free = _free(names)
        if free == [name for name in names if _is_slot(name)] and self.broken != "any-slot":
            return [name for name in free if name[1] == 0]
        return free

    def _claim(self, me: int, known: Any, names: Names, stamps: int, admitted: int) -> Iterator[Step]:
        slot, held = known
        if not names or slot not in names:
            yield ("hit", "return" if held else "list", held or None), names, stamps, admitted
            return
        taken = (f"h{me}", slot[1])
        names = names - {slot} | {taken}
        held = (*held, (taken, slot))
        free = _free(names)
        if len(held) == self.cost:
            yield ("hit", "done", None), names, stamps, admitted + self.cost
        else:
            for other in free:
                yield ("hit", "claim", (other, held)), names, stamps, admitted
        if self.several or (len(held) < self.cost and not free):
            yield ("hit", "return", held), names, stamps, admitted

    def _room(self, names: Names) -> int:
        """How many more hits of cost 1 a lone process is admitted."""
        if not names or _is_gone(names):
            return self.slots
        return len(_free(names))


def _is_slot(name: Name) -> bool:
    return bool(name[0] != "gone")


def _is_gone(names: frozenset[Name]) -> bool:
    """Whether a sweeper has the directory: there is a mark, and no lowest slot."""
    slots = {name[1] for name in names if _is_slot(name)}
    return len(slots) < len(names) and 0 not in slots


def _free(names: frozenset[Name]) -> list[Name]:
    return [name for name in names if _is_slot(name) and name[0][0] != "h"]
