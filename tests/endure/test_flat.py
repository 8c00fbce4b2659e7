"""What is flat and what is not."""

from __future__ import annotations

import random

import pytest

from tests.endure.flat import Bound, judge, theil_sen

TIMES = [float(second) for second in range(0, 3600, 10)]


def noisy(rng: random.Random, slope: float) -> list[float]:
    return [1000 + slope * time + rng.gauss(0, 20) for time in TIMES]


def test_the_slope_of_a_line_is_its_slope():
    assert theil_sen([0, 1, 3], [5, 7, 11]) == 2
    assert theil_sen([0], [5]) == 0


def test_noise_is_flat_and_a_slow_leak_in_it_is_not():
    bound = Bound(0.02, 0)
    flat = judge("flat", TIMES, noisy(random.Random(1), 0), bound)
    leak = judge("leak", TIMES, noisy(random.Random(1), 0.05), bound)
    assert flat.flat
    assert not leak.flat
    assert leak.growth == pytest.approx(0.05 * 1800, rel=0.2)


def test_what_is_filled_in_the_first_half_does_not_count():
    values = [min(time, 1700.0) for time in TIMES]
    assert judge("cache", TIMES, values, Bound(0, 0.5)).flat


def test_a_few_odd_samples_do_not_count():
    values = [7.0] * len(TIMES)
    values[-3:] = [90.0] * 3
    assert judge("odd", TIMES, values, Bound(0, 0.5)).flat


def test_a_leak_of_one_descriptor_in_the_half_is_seen():
    values = [10 + time / 1800 for time in TIMES]
    assert not judge("leak", TIMES, values, Bound(0, 0.5)).flat


def test_what_shrinks_is_flat():
    assert judge("less", TIMES, TIMES[::-1], Bound(0, 0.5)).flat
