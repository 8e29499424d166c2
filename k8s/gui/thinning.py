"""Thinning a curve that grows: the lowest and the highest value of equal stretches, so that no spike is lost.

An average, or every n-th point, would lose it. Only what is new is looked at; when the stretches become too many, two
neighbours become one.
"""

from __future__ import annotations

import math
from array import array

STRETCHES = 400
"""At most; a curve of 100,000 points has 390 of 256 each."""


class Extremes:
    """Where, in a column that is only ever appended to, each stretch is lowest and highest."""

    def __init__(self) -> None:
        self.width = 1
        self._found: list[tuple[int, int] | None] = []

    def indices(self, values: array[float]) -> list[int]:
        """Return the positions to draw, in order; the newest value is always there. NaN is no value."""
        while len(values) // self.width > STRETCHES:
            pairs = zip(self._found[::2], self._found[1::2], strict=False)
            self._found = [_joined(values, *pair) for pair in pairs]
            self.width *= 2
        for start in range(len(self._found) * self.width, len(values) - self.width + 1, self.width):
            self._found.append(_extremes(values, start, start + self.width))
        rest = _extremes(values, len(self._found) * self.width, len(values))
        picked = {index for pair in (*self._found, rest) if pair for index in pair}
        if values and not math.isnan(values[-1]):
            picked.add(len(values) - 1)
        return sorted(picked)


def _extremes(values: array[float], start: int, end: int) -> tuple[int, int] | None:
    part = values[start:end].tolist()
    if math.isnan(sum(part)):  # NaN compares with nothing: min and max would trip over it
        there = [value for value in part if not math.isnan(value)]
        if not there:
            return None
        return start + part.index(min(there)), start + part.index(max(there))
    return (start + part.index(min(part)), start + part.index(max(part))) if part else None


def _joined(
    values: array[float], left: tuple[int, int] | None, right: tuple[int, int] | None
) -> tuple[int, int] | None:
    if left is None or right is None:
        return left or right
    low = left[0] if values[left[0]] <= values[right[0]] else right[0]
    high = left[1] if values[left[1]] >= values[right[1]] else right[1]
    return low, high
