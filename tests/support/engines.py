"""Engines that do what an engine may do wrong."""

from pipelines.engine.inline import InlineExecutor


class Unreliable(InlineExecutor):
    """Runs everything, then gives receipts twice, or loses those whose units cover a row."""

    def __init__(self, lose=(), twice=False):
        super().__init__()
        self.lose, self.twice = set(lose), twice

    def run(self, read, stages, spans):
        for parcel in super().run(read, stages, spans):
            if any(
                unit.start <= row < unit.stop and path in unit.path for unit in parcel.bundle for path, row in self.lose
            ):
                continue
            yield parcel
            if self.twice:
                yield parcel
