"""What a run cost in all: sums, and the largest peak where all are known."""

from __future__ import annotations

from thawline.state import sum_costs


def make_cost(peak, held):
    return {
        "seconds": 1,
        "cpu_seconds": 2,
        "energy_wh": 3,
        "energy_measured": True,
        "peak_rss_mib": peak,
        "held_mib": held,
    }


def test_costs_are_summed_and_a_peak_that_is_not_known_is_none_of_several():
    nothing, known, larger, unknown = make_cost(None, None), make_cost(7, 7), make_cost(9, 9), make_cost(None, 12)
    both = sum_costs([known, larger])
    assert [both[key] for key in ("seconds", "cpu_seconds", "energy_wh", "peak_rss_mib")] == [2, 4, 6, 9]
    assert sum_costs([nothing, known])["peak_rss_mib"] == 7  # of no unit, which holds nothing
    assert sum_costs([known, unknown])["peak_rss_mib"] is None
    assert sum_costs([nothing])["peak_rss_mib"] is None
