"""Random requests by the thousand: nothing leaks, nobody is stuck, and every text is as alone."""

import resource
from pathlib import Path

import pytest
from driving import Reference
from soak import Soak


def test_two_hundred_random_requests_in_a_cache_that_is_always_too_small(
    tiny_dir: Path, reference: Reference
) -> None:
    report = Soak(tiny_dir, reference, requests=200, seed=0).run()
    print(report)
    assert report.preempted >= 50
    assert report.cached_tokens >= 1000
    assert report.aborted
    assert report.compared >= 60
    assert report.searches >= 5
    assert report.skipped <= 3


@pytest.mark.slow
def test_ten_thousand_random_requests(tiny_dir: Path, reference: Reference) -> None:
    Soak(tiny_dir, reference, requests=500, seed=1).run()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = Soak(tiny_dir, reference, requests=10_000, seed=2).run()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    print(f"\n{report}; {grown} MiB more than after 500")
    assert report.preempted >= 500
    assert report.searches >= 300
    assert report.skipped <= 10
    assert grown < 100  # what was told is kept for the comparison
