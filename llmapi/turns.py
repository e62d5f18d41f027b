"""So many at once; who waits is taken in turn, one lane after the other."""

import asyncio
from collections import OrderedDict, deque


class Turns:
    """As a semaphore, but fair between lanes: a hundred that wait in one delay the next of another
    by one. Owned by the event loop."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._lanes: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        """The lane served longest ago first. No lane is empty."""

    async def take(self, lane: str) -> None:
        """Wait for a turn; `leave` must follow."""
        if self._free:  # then nobody waits
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._lanes.setdefault(lane, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._remove(lane, turn)
            else:  # it came in the same moment
                self.leave()
            raise

    def leave(self) -> None:
        while self._lanes:
            lane, line = next(iter(self._lanes.items()))
            turn = line[0]
            self._remove(lane, turn)
            if not turn.cancelled():
                if lane in self._lanes:
                    self._lanes.move_to_end(lane)
                turn.set_result(None)
                return
        self._free += 1

    def _remove(self, lane: str, turn: asyncio.Future[None]) -> None:
        line = self._lanes.get(lane)
        if line and turn in line:
            line.remove(turn)
            if not line:
                del self._lanes[lane]
