"""How many bytes of tensors are alive, counted by storage, on any device, also "meta": what a GPU would hold.

What a watched function needs on its way is not seen, as one kernel needs nothing.
"""

import gc
from collections.abc import Callable
from typing import Any

import torch


class LiveBytes:
    """The most bytes beside those that were alive at the start."""

    def __init__(self) -> None:
        self._before = set(_storages())
        self._inside = False
        self.most = 0

    def look(self) -> None:
        now = sum(size for storage, size in _storages().items() if storage not in self._before)
        self.most = max(self.most, now)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with a look before it and one at what it gives; none inside it."""

        def call(*args: Any) -> Any:
            if self._inside:
                return function(*args)
            self.look()
            self._inside = True
            found = function(*args)
            self._inside = False
            self.look()
            return found

        return call


def _storages() -> dict[int, int]:
    storages = [x.untyped_storage() for x in gc.get_objects() if type(x) is torch.Tensor]
    return {storage._cdata: storage.nbytes() for storage in storages}
