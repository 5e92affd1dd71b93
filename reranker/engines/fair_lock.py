"""A lock that serves in the order of asking."""

import threading
from collections import deque
from types import TracebackType


class FairLock:
    """A lock whose holder, on release, hands it to whoever has waited longest.

    With `threading.Lock`, a thread that takes it again at once, as decoding does token by token, starves the others.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held = False
        self._waiting: deque[threading.Event] = deque()

    def __enter__(self) -> None:
        with self._guard:
            if not self._held:
                self._held = True
                return
            turn = threading.Event()
            self._waiting.append(turn)
        try:
            turn.wait()
        except BaseException:  # KeyboardInterrupt
            with self._guard:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                    raise
            self._release()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def _release(self) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._held = False
