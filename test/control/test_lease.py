"""An enable that must be asked for again: it runs out once, and nothing but a new enable begins it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ecovla_ros.control.lease import EnableLease


@given(st.integers(200, 60_000).map(lambda ms: ms / 1024), st.lists(st.integers(0, 5000), max_size=20))
def test_it_runs_out_exactly_when_nobody_asked_for_so_long(lease_s: float, pauses: list[int]) -> None:
    lease, now, held = EnableLease(lease_s), 100.0, True
    lease.begin(now)
    for pause in pauses:
        asked, now = now, now + pause / 1024  # exact, as binary fractions
        late = now - asked > lease_s
        assert lease.lapsed(now) == (late and held), "told once"
        held = held and not late
        lease.renew(now)
    assert lease.lapsed(now + 2.0 * lease_s) == held


def test_without_a_lease_an_enable_lasts_and_a_renewal_enables_nothing() -> None:
    lease = EnableLease(0.0)
    lease.begin(0.0)
    assert not lease.lapsed(1e9)
    lease = EnableLease(1.0)
    lease.renew(0.0)
    assert not lease.lapsed(1e9)
    lease.begin(0.0)
    lease.end()
    assert not lease.lapsed(1e9)
