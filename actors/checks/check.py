"""A verdict that a person reads: one thing that must hold, of a model (the doctor) or of a table (verify)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One thing proved or doubted; None: nothing to judge. `found` is what was seen, in words."""

    name: str
    ok: bool | None
    found: str
