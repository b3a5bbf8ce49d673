"""The executor of our nodes: a message that cannot be read, or whose callback breaks, costs that message and no more.

rclpy raises what it finds in a subscription, a request or a reply (`RMWError` for bytes that are no message,
`ValueError` for a `/clock` before 1970) out of `spin_once`, which ends the process; and the entity that it was reading
is never looked at again. Here it is counted and said, and the next one is read.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.logging import get_logger

from ecovla_ros.errors import EcovlaError, short

SAY_AGAIN_S = 2.0
"""The same kind of complaint is logged at most this often, s."""


class SturdyExecutor(SingleThreadedExecutor):
    """One thread. Timers are not covered: what they raise is no message's fault, and ends the process.

    A node with a method `on_broken(what, error)` is told of what one of its callbacks raised.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.broken: Counter[str] = Counter()
        """Topic or service -> messages that could not be read or answered."""

    def _take_subscription(self, sub: Any) -> Any:
        return self._safely(super()._take_subscription, sub, "topic_name")

    def _take_service(self, srv: Any) -> Any:
        return self._safely(super()._take_service, srv, "service_name")

    def _take_client(self, client: Any) -> Any:
        return self._safely(super()._take_client, client, "service_name")

    def _take_waitable(self, waitable: Any) -> Any:
        return self._safely(super()._take_waitable, waitable, "_action_name")

    def _safely(self, take: Callable[[Any], Any], entity: Any, naming: str) -> Any:
        """What is to be run for `entity`, wrapped; None when there is nothing that can be read."""
        try:
            work = take(entity)
        except (EcovlaError, ExternalShutdownException):
            raise
        except Exception as error:  # rclpy's own, and whatever its conversions raise for hostile bytes
            return self._say(entity, naming, "cannot be read", error)
        if not callable(work):  # nothing to do, or the message itself (Humble)
            return work

        async def run() -> None:
            try:
                await work()
            except (EcovlaError, ExternalShutdownException):
                raise
            except Exception as error:  # whatever it is, the next message is read
                self._say(entity, naming, "broke what reads it", error)
                for node in self.get_nodes():
                    if hasattr(node, "on_broken"):
                        node.on_broken(str(getattr(entity, naming, "an event")), error)

        return run

    def _say(self, entity: Any, naming: str, what: str, error: Exception) -> None:
        name = str(getattr(entity, naming, type(entity).__name__))
        self.broken[name] += 1
        text = f"a message on {name} {what} ({type(error).__name__}: {short(error)}); {self.broken[name]} so far"
        if what != "cannot be read" and self.broken[name] == 1:
            text += "\n" + "".join(traceback.format_exception(error))
        get_logger("executor").error(text, throttle_duration_sec=SAY_AGAIN_S)
