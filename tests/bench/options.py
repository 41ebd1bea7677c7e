"""How much is measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """One run of the bench. ``window`` is seconds of one measurement; ``only`` names subjects, empty: all."""

    rounds: int = 9
    window: float = 0.4
    sizes: tuple[int, ...] = (10, 100, 1_000)
    connections: tuple[int, ...] = (1_000, 5_000, 10_000, 20_000)
    durable: bool = True
    only: tuple[str, ...] = ()

    def wants(self, name: str) -> bool:
        """Is this subject to be measured?"""
        return not self.only or any(word.lower() in name.lower() for word in self.only)
