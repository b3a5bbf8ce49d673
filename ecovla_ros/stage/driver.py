"""The demo's own node: drives the lifecycle, the scenes and the guard, and listens to what is reported."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.client import Client
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from std_srvs.srv import SetBool, Trigger

from ecovla_ros.errors import EcovlaError
from ecovla_ros.nodes.ros import qos
from ecovla_ros.nodes.ros.interfaces import ActionChunk, LatencyReport, PruningState, ResetScene
from ecovla_ros.stage.summary import Episode

START_S = 60.0
"""The nodes have this long to appear, and the policy to load, s."""
ANSWER_S = 20.0
"""A service has this long to answer, s."""
ANEW_S = 5.0
"""A request without an answer is made again after so long, s."""
STILL_S = 0.3
"""The arm must have stood for so long before a scene is laid, s: a stop that the guard still sends after it is disabled
would else reach the controller after the reset, and drive the arm from its new place to the old one."""
STILL_RAD_S = 0.02
"""Largest joint velocity of an arm that stands, rad/s."""
LEASE_S = 1.0
"""The guard of a demo or trial moves the arm for so long after it was last asked to, s (`enable_lease_s`)."""
ASK_S = 0.2
"""Time between two askings, s."""
SETTLE_S = 0.5
"""Chunks of the new scene arrive before the arm is enabled, s."""
Watch = Callable[[], None]


class Driver:
    """Asks and listens. Every wait spins the executor and calls `watch`, which raises when it is time to stop."""

    def __init__(
        self, node: Node, executor: SingleThreadedExecutor, watch: Watch, simulator: str = "sim",
        clock: Callable[[], float] = time.monotonic, policy: bool = True,
    ) -> None:  # fmt: skip
        """`simulator`: the node that lays scenes; `clock`: what an episode's length is told by, s; `policy`: whether it
        is a policy that drives, with a lifecycle and a scene to forget."""
        self._node, self._executor, self._watch = node, executor, watch
        self._simulator, self._clock, self._policy = simulator, clock, policy
        self._episode: Episode | None = None
        self._answered = self._commands = 0
        self._state, self._reason = "", ""
        listen = node.create_subscription
        listen(LatencyReport, "latency", self._on_latency, qos.REPORT)
        listen(PruningState, "pruning", self._on_pruning, qos.REPORT)
        listen(ActionChunk, "action_chunk", self._on_chunk, qos.COMMAND)
        listen(DiagnosticStatus, "status", self._on_status, qos.LATCHED)
        listen(JointState, "joint_states", self._on_joints, qos.SENSOR)
        listen(Bool, "success", self._on_success, qos.LATCHED)
        self._lifecycle: Client = node.create_client(ChangeState, "policy/change_state")
        self._scene: Client = node.create_client(ResetScene, f"{simulator}/reset")
        self._enable: Client = node.create_client(SetBool, "guard/enable")
        self._unlatch: Client = node.create_client(Trigger, "guard/reset")
        self._forget: Client = node.create_client(Trigger, "guard/forget")
        self._episodes: Client = node.create_client(Trigger, "policy/reset")
        self._done = self._enabled = False
        self._asking = node.create_publisher(Bool, "guard/enable_lease", qos.REPORT)
        node.create_timer(ASK_S, self._ask_again, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._moved = time.monotonic()

    def until(self, condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
        """Spin until the condition holds. Raises EcovlaError after `timeout_s`, saying `what` did not happen."""
        end = time.monotonic() + timeout_s
        while not (value := condition()):
            if time.monotonic() > end:
                raise EcovlaError(f"{what}: not within {timeout_s:.0f} s")
            self._executor.spin_once(timeout_sec=0.05)
            self._watch()
        return value

    def spin(self, seconds: float, tick: Callable[[], bool]) -> float:
        """Spin for so long, or until `tick` says no; returns the seconds it took, by the clock."""
        began = self._clock()
        while (elapsed := self._clock() - began) < seconds and tick():
            self._executor.spin_once(timeout_sec=0.05)
            self._watch()
        return elapsed

    def bring_up(self) -> None:
        """Wait for the nodes, configure and activate the policy, if there is one. Raises EcovlaError."""
        awaited = [(self._scene, self._simulator), (self._enable, "guard")]
        awaited += [(self._lifecycle, "policy")] if self._policy else []
        for client, name in awaited:
            self.until(client.service_is_ready, START_S, f"the services of {name}")
        if not self._policy:
            return
        for transition, verb in (
            (Transition.TRANSITION_CONFIGURE, "configure"),
            (Transition.TRANSITION_ACTIVATE, "activate"),
        ):
            if not self._ask(
                self._lifecycle, ChangeState.Request(transition=Transition(id=transition)), START_S
            ).success:
                raise EcovlaError(f"the policy did not {verb}")

    def take_down(self) -> None:
        """Disarm the guard and deactivate the policy."""
        self.enable(False)
        down = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_DEACTIVATE))
        self._ask(self._lifecycle, down, ANSWER_S)

    def lay(self, task: str, seed: int) -> Episode:
        """A task's scene, and an answered frame of it; the arm rests. Raises EcovlaError."""
        self.enable(False)
        stopped = time.monotonic()
        self.until(lambda: time.monotonic() - max(stopped, self._moved) > STILL_S, ANSWER_S, "the arm to come to rest")
        self._ask_anew(self._unlatch, Trigger.Request())  # the task before may have ended in a latch
        answer = self._ask(self._scene, ResetScene.Request(task=task, seed=seed), START_S)
        if not answer.success:
            raise EcovlaError(answer.message)
        if self._policy:
            self._ask(self._episodes, Trigger.Request(), ANSWER_S)  # the words may be those of the episode before
        self._ask_anew(self._forget, Trigger.Request())  # the controller commands the arm where the reset put it
        self.spin(SETTLE_S, lambda: True)
        before = self._answered
        self.until(lambda: self._answered > before + 1, ANSWER_S, "a chunk for the new scene")
        return Episode(task, answer.instruction, seed)

    def drive(self, episode: Episode, limit_s: float, progress: Callable[[float, str], None]) -> None:
        """Enable the guard and let the policy drive until the task is solved or `limit_s` have passed."""
        self._episode, self._done = episode, False
        began = self._clock()
        self.enable(True)

        def tick() -> bool:
            progress(self._clock() - began, self._state)
            return not self._done

        episode.seconds = self.spin(limit_s, tick)
        episode.success, episode.reason = self._done, self._reason
        self._episode = None
        self.enable(False)

    def enable(self, on: bool) -> None:
        """The guard's enable service. Raises EcovlaError when it refuses to arm."""
        answer = self._ask_anew(self._enable, SetBool.Request(data=on))
        self._enabled = on and answer.success
        if on and not answer.success:
            raise EcovlaError(f"the guard does not arm: {answer.message}")

    def unlatch(self) -> None:
        """Disarm, end a latch, and let the guard forget what the controller held. Raises EcovlaError."""
        self.enable(False)
        self._ask_anew(self._unlatch, Trigger.Request())
        self._ask_anew(self._forget, Trigger.Request())

    def _ask_again(self) -> None:
        """Whoever enabled keeps asking while it lives and looks."""
        if self._enabled:
            self._asking.publish(Bool(data=True))

    def _ask_anew(self, client: Any, request: Any) -> Any:
        """The answer to a request that may be made twice: a reply is lost while the guard does not know who asks."""
        for _ in range(round(ANSWER_S / ANEW_S) - 1):
            future = client.call_async(request)
            asked = time.monotonic()
            self.until(lambda: future.done() or time.monotonic() - asked > ANEW_S, ANSWER_S, "time to pass")  # noqa: B023
            if future.done():
                return future.result()
        return self._ask(client, request, ANEW_S)

    def _ask(self, client: Any, request: Any, timeout_s: float) -> Any:
        future = client.call_async(request)
        self.until(future.done, timeout_s, f"an answer of {client.srv_name}")
        return future.result()

    def _on_latency(self, msg: LatencyReport) -> None:
        if self._episode is not None:
            self._episode.policy_ms.append(msg.policy_ms)
            self._episode.dropped.append(msg.frames_dropped)

    def _on_pruning(self, msg: PruningState) -> None:
        if self._episode is not None:
            self._episode.triggered.append(msg.triggered)
            self._episode.pattern_age.append(msg.pattern_age)

    def _on_joints(self, msg: JointState) -> None:
        if max((abs(v) for v in msg.velocity), default=0.0) > STILL_RAD_S:
            self._moved = time.monotonic()

    def _on_chunk(self, _msg: ActionChunk) -> None:
        self._answered += 1

    def _on_success(self, msg: Bool) -> None:
        self._done = msg.data

    def _on_status(self, msg: DiagnosticStatus) -> None:
        values = {pair.key: pair.value for pair in msg.values}
        self._state, self._reason = values.get("state", ""), msg.message
        answers = int(values.get("chunks_answered", 0))
        if self._episode is not None and answers > self._commands:
            self._episode.command_ms.append(float(values["camera_to_command_ms"]))
        self._commands = answers
