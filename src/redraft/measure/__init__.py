"""Measuring: contenders in alternation, medians with their spread, and the machine that they ran on.

``timing`` and ``benchmark`` run the rounds, ``workload`` and ``process`` hold the contenders, ``report`` and ``plot``
show the result, ``peak`` says what the arithmetic units could do.
"""

from redraft.measure.timing import Spread, alternate, check_rounds, times_as_fast

__all__ = ["Spread", "alternate", "check_rounds", "times_as_fast"]
