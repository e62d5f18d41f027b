"""In whose line a request waits, before it is known for certain whose it is."""

import hashlib
import threading
from collections import OrderedDict

MOST_KNOWN = 4096
STRANGERS = "strangers"


def lane_of_user(user_id: int) -> str:
    return f"user-{user_id}"


class KnownKeys:
    """Keys that were good a while ago, and whose they were.

    A hint, by which requests wait beside others of the same user, and never a proof: each is
    authenticated when its turn comes. Whoever sends keys that are none is a stranger, and all
    strangers share one line, which so is as long for them as it is short for everybody else.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lanes: OrderedDict[bytes, str] = OrderedDict()
        """By digest, the one seen longest ago first."""

    def lane(self, authorization: bytes) -> str:
        with self._lock:
            digest = digest_of(authorization)
            lane = self._lanes.get(digest)
            if lane is None:
                return STRANGERS
            self._lanes.move_to_end(digest)
            return lane

    def learn(self, authorization: bytes, user_id: int) -> None:
        with self._lock:
            self._lanes[digest_of(authorization)] = lane_of_user(user_id)
            if len(self._lanes) > MOST_KNOWN:
                self._lanes.popitem(last=False)

    def forget(self, authorization: bytes) -> None:
        with self._lock:
            self._lanes.pop(digest_of(authorization), None)


def digest_of(authorization: bytes) -> bytes:
    return hashlib.sha256(authorization).digest()


known_keys = KnownKeys()
