"""What a device asks of the schedule that a CPU does not: work that has been issued and has not ended."""

from __future__ import annotations

import pytest
from test_engine import CONFIG, SCENES
from toy import Toy

from ecovla_ros.engine import refresh
from ecovla_ros.engine.engine import Engine
from ecovla_ros.engine.streams import Inline
from ecovla_ros.engine.timing import HostSpan


class Device(Inline):
    """Jobs are issued at once and end when the host waits for them, or is told that they have: a stand-in for CUDA."""

    def __init__(self):
        super().__init__()
        self.issued = self.ended = 0

    def finish(self):
        self.ended = self.issued

    def span(self, device, clock):
        return DeviceSpan(self, clock)


class DeviceSpan(HostSpan):
    """The time of one job on a `Device`: job number n takes n ms."""

    def __init__(self, device, clock):
        super().__init__(clock)
        self._device, self._job = device, 0

    def end(self):
        self._device.issued += 1
        self._job = self._device.issued

    def done(self):
        return self._job <= self._device.ended

    def ms(self):
        return float(self._job)


@pytest.fixture
def device(monkeypatch):
    made = Device()
    monkeypatch.setattr(refresh, "span_for", made.span)
    return made


def test_settled_means_that_the_refresh_has_ended(device):
    engine = Engine(Toy(), CONFIG, device)
    engine.step(SCENES[0])
    assert engine._refresh.state.pattern_id == 0, "issued, and not ended"
    engine.settle()
    assert device.ended == device.issued == 2 and engine._refresh.state.pattern_id == 1
    engine.close()
