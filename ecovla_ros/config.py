"""Configuration: frozen dataclasses, the only place of a default, a range and a unit.

YAML holds what a deployment changes. An unknown key, a wrong type or a value out of range is a `ConfigError`
that names the nearest valid key or the valid range.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ecovla_ros import documents
from ecovla_ros.errors import ConfigError, short, unknown
from ecovla_ros.types import GRIPPER_CLOSED_RAD, GRIPPER_JOINT, JOINTS, ArmJoints

METHODS = ("dense", "ecovla", "every", "static", "wanda", "random")
"""dense: nothing pruned. ecovla: adaptive, triggered (paper). every: adaptive, each frame triggers. static: calibration
only. wanda: calibration only, Wanda-sp scores. random: a seeded random pattern."""
ADAPTIVE = ("ecovla", "every")
"""Methods whose pattern follows the scene; they refresh as `prune.refresh` says."""
ADAPTIVE_ONLY = ("p", "window", "refresh", "probe_tokens", "alpha", "decay", "hysteresis", "swap_budget", "max_age",
                 "audit")  # fmt: skip
"""Settings of `PruneConfig` that no other method reads."""
REFRESHES = ("probe", "dense")
"""probe: the frame that triggers stays sparse, pruned channels are measured on sampled tokens beside it. dense: it runs
dense and records every channel (paper)."""
FITS = ("count", "time")
"""count: the kept channels are those nearest to the ratio. time: see engine/fit."""
RTC_RELEASES = ("trigger", "never")
DTYPES = ("auto", "float32", "bfloat16")

SITE_GROUPS = ("lm.mlp", "lm.heads", "expert.mlp", "expert.heads")
RENDERERS = ("auto", "egl", "osmesa", "ray")
PROFILES = ("gentle", "normal", "fast")


def _between(default: Any, low: float, high: float, doc: str, unit: str = "") -> Any:
    return field(default=default, metadata={"range": (low, high), "doc": doc, "unit": unit})


def _one_of(default: str, choices: tuple[str, ...], doc: str) -> Any:
    return field(default=default, metadata={"choices": choices, "doc": doc})


def _doc(default: Any, doc: str) -> Any:
    return field(default=default, metadata={"doc": doc})


ACTIONS = ("absolute", "relative", "delta_base", "delta_tool")


@dataclass(frozen=True)
class EmbodimentConfig:
    """What a published checkpoint does not say of itself: how its training data name and measure this arm."""

    cameras: tuple[str, ...] = _doc((), "camera=slot for each camera, e.g. third_person=base_0_rgb")
    actions: str = _one_of(
        "absolute",
        ACTIONS,
        "joint targets, how far these lie from the joints, or small motions of the tool along axes of base or tool",
    )
    gripper: tuple[float, ...] = _doc((0.0, 1.0), "the data's value of an open and of a closed gripper")
    period_s: float = _between(0.1, 0.001, 10.0, "time from one action to the next in the data", "s")
    statistics: str = _doc("", "name of the data set whose statistics hold; may be empty where there is only one")
    other: bool = _doc(False, "another arm than this one: state and actions as its data have them; for serving only")
    prompt_state: bool = _doc(True, "whether pi0.5's prompt tells the state; openpi's pi05_libero does not")
    chunk: int = _between(8, 1, 1000, "length of a chunk, where a checkpoint does not say it (OpenVLA-OFT)", "actions")


@dataclass(frozen=True)
class PolicyConfig:
    """Which model, from which checkpoint, and how it runs."""

    model: str = _doc("mini", "name of the model family, see ecovla_ros.build")
    checkpoint: str = _doc(
        "", "folder of the checkpoint, or the name of a shipped one (libero); empty: the model's own"
    )
    flow_steps: int = _between(0, 0, 100, "flow-matching (Euler) steps; 0: as the checkpoint was trained for")
    threads: int = _between(0, 0, 256, "torch threads; 0: number of cores minus one, at least 1")
    device: str = _one_of("auto", ("auto", "cpu", "cuda"), "where the model runs")
    dtype: str = _one_of("auto", DTYPES, "of weights and products; auto: float32 on a CPU, bfloat16 on CUDA")
    mlp_dtype: str = _one_of(
        "auto", ("auto", "float8"), "of gate and up in the prefill; float8: e4m3, one scale a row, on CUDA from 8.9 on"
    )
    kernels: str = _one_of(
        "auto", ("auto", "torch"), "auto: on CUDA kernels of our own where they were timed as faster; torch: none"
    )
    kernel_cache: bool = _doc(
        True, "keep in the user's cache folder which kernels were timed as fastest, so that the next start times none"
    )
    early_launch: bool = _doc(
        False, "let kernels begin before the one ahead has ended, if a trial in warm-up says it is right and faster"
    )
    bucket: int = _between(0, 0, 1024, "prompts are padded to a multiple of this; 0: 1 on a CPU, 32 on CUDA", "tokens")
    refresh_behind: str = _one_of(
        "prefill", ("prefill", "frame"),
        "what a refresh on CUDA begins behind: prefill, beside the action head; frame, while the robot moves",
    )  # fmt: skip
    ask: str = _one_of(
        "late", ("late", "first", "timed"),
        "when the trigger of a frame is asked on CUDA, refresh probe: late, every frame being issued at once, a device "
        "finding by itself whether to record; first, so that only those record that a refresh follows; timed: as "
        "warm-up finds faster",
    )  # fmt: skip
    graphs: bool = _doc(True, "on CUDA capture prefill and act as graphs, one per plan and shape")
    seed: int = _between(0, 0, 2**31 - 1, "seed of the flow noise")
    fastv: float = _between(0.0, 0.0, 0.99, "share of vision tokens that leave the sequence (FastV)")
    fastv_layer: int = _between(3, 1, 1000, "how many layers see all vision tokens (FastV)", "layers")
    vla_cache: tuple[float, ...] = field(
        default=(),
        metadata={
            "range": (0.0, 0.99),
            "doc": "share of vision tokens that keep K and V of an earlier frame (VLA-Cache), for equal stretches of "
            "the layers, e.g. [0.25, 0.5]; empty: none",
        },
    )
    vla_cache_exclude: float = _between(
        0.4,
        0.0,
        0.99,
        "share of vision tokens that are always computed, because the prompt looks at them most (VLA-Cache)",
    )
    vla_cache_layer: int = _between(
        0, 0, 1000, "the layer whose attention decides that, counted from 1; 0: the middle one"
    )
    vla_cache_similarity: float = _between(0.996, 0.0, 1.0, "least similarity of a patch that stands still (VLA-Cache)")
    rtc: int = _between(
        0, 0, 1000, "how much of a chunk is drawn to the chunk before it (real-time chunking); 0: nothing", "actions"
    )
    rtc_release: str = _one_of(
        "trigger",
        RTC_RELEASES,
        "when a chunk is not drawn to the one before; trigger: the scene has changed, as `prune.p` and `prune.window` "
        "have it, with every method",
    )
    rtc_apart_rad: float = _between(
        0.0, 0.0, 3.2, "nor where it would lie farther from that one than this, by a first look; 0: however far", "rad"
    )
    rtc_delay: int = _between(
        0, 0, 1000, "how much of that is executed before the chunk arrives, and is therefore drawn fully", "actions"
    )
    embodiment: EmbodimentConfig = field(
        default_factory=EmbodimentConfig, metadata={"doc": "what a published checkpoint does not say of itself"}
    )


@dataclass(frozen=True)
class PruneConfig:
    """Environment-aware adaptive pruning (arXiv 2602.00780). Symbols are the paper's."""

    method: str = _one_of("ecovla", METHODS, "what chooses the channels")
    ratio: float = _between(0.25, 0.0, 0.9, "share of the selected channels that is left out")
    fit: str = _one_of(
        "count",
        FITS,
        "how many channels stay: the count nearest to `ratio`, or one near it of which this machine computes more per "
        "second and which takes no longer; with `pattern`, as many as that file says",
    )
    sites: tuple[str, ...] = field(
        default=("lm.mlp",), metadata={"choices": SITE_GROUPS, "doc": "which groups of channels may be pruned"}
    )
    skip_layers: tuple[int, ...] = _doc((), "layers that stay dense in every group")
    p: float = _between(0.05, 0.0, 1.0, "quantile of the similarity history below which a frame triggers (Eq. 6, 7)")
    window: int = _between(30, 2, 10_000, "T: length of the similarity history", "frames")
    refresh: str = _one_of("probe", REFRESHES, "how an adaptive method measures pruned channels")
    probe_tokens: int = _between(32, 1, 4096, "m: how many tokens of each pass a probe samples", "tokens")
    record_steps: int = _between(
        0, 0, 1000, "how many of an action head's steps (flow or denoising), the last ones, record energies; 0: all"
    )
    alpha: float = _between(0.7, 0.0, 1.0, "weight of the history in the fused energy (Eq. 9)")
    decay: float = _between(0.7, 0.0, 1.0, "lambda: weight of the history in its moving average (Eq. 10)")
    hysteresis: float = _between(
        0.05,
        0.0,
        10.0,
        "a channel enters only if its importance is larger by this share than that of the one that leaves",
    )
    swap_budget: int = _between(
        0, 0, 1_000_000, "most pairs of channels that a refresh swaps in one site; 0: as many as needed", "pairs"
    )
    max_age: int = _between(
        0, 0, 1_000_000, "a refresh comes after so many frames without a trigger; 0: never", "frames"
    )
    audit: int = _between(
        0, 0, 1_000_000, "every so many refreshes one is dense and measures all channels exactly; 0: none", "refreshes"
    )
    compensate: bool = _doc(False, "add the mean of what pruned channels would have given (FLAP)")
    tiers: tuple[float, ...] = field(
        default=(), metadata={"range": (0.0, 0.9), "doc": "further ratios nested on the same weights, for the deadline"}
    )
    deadline_ms: float = _between(
        0.0, 0.0, 10_000.0, "choose among `ratio` and `tiers` by this time; 0: always `ratio`", "ms"
    )
    refresh_limit_s: float = _between(
        2.0, 0.001, 60.0, "how long a frame waits for a refresh before the refresh is given up", "s"
    )
    calibration: str = _doc(
        "auto",
        "where the first pattern comes from; auto: the checkpoint's own calibration, and none if it has none; none: "
        "the first frames, which run dense; or a file that `ecovla calibrate` wrote",
    )
    cold_frames: int = _between(
        1, 1, 1000, "how many frames run dense, and are added up for the first pattern, without a calibration", "frames"
    )
    pattern: str = _doc("", "file of an exported pattern to start from; empty: the calibration")
    seed: int = _between(0, 0, 2**31 - 1, "seed of the random pattern and of the sampled tokens")


@dataclass(frozen=True)
class ControlConfig:
    """Playback and guard."""

    profile: str = _one_of("normal", PROFILES, "limit profile, see config/gen3_limits.yaml")
    rate_hz: float = _between(100.0, 10.0, 1000.0, "guard tick rate", "Hz")
    replan_s: float = _between(0.4, 0.02, 10.0, "time between two chunks sent to the arm", "s")
    react_s: float = _between(
        0.0, 0.0, 10.0, "a chunk that answers a changed scene is sent so soon after the one before; 0: at its turn", "s"
    )
    max_horizon_s: float = _between(
        0.86, 0.1, 5.0, "longest blind motion, start_window_s included: later points of a chunk are dropped", "s"
    )
    chunk_age_s: float = _between(0.5, 0.02, 10.0, "a chunk whose observation is older than this is refused", "s")
    chunk_silence_s: float = _between(0.42, 0.02, 10.0, "no new valid chunk for this long: stop and hold", "s")
    joint_state_age_s: float = _between(0.1, 0.005, 5.0, "no joint state for this long: hold", "s")
    margin_rad: float = _between(0.05, 0.0, 1.0, "distance kept from joint position limits", "rad")
    max_jump_rad: float = _between(
        0.2, 0.01, 1.0, "largest distance from where the arm is to a chunk's due point", "rad"
    )
    box_lower: tuple[float, ...] = _between((0.15, -0.5, 0.01), -2.0, 2.0, "tool point's box: lowest x, y, z", "m")
    box_upper: tuple[float, ...] = _between((0.85, 0.5, 0.8), -2.0, 2.0, "tool point's box: highest x, y, z", "m")
    singular_from: float = _between(25.0, 1.0, 1e6, "condition number of the Jacobian from which the arm is slowed")
    singular_to: float = _between(60.0, 1.0, 1e6, "condition number at which it is slowest")
    stamp_commands: str = _one_of(
        "auto",
        ("auto", "always", "never"),
        "whether trajectories say when they begin; auto: as the controller's own state shows at enable",
    )
    start_window_s: float = _between(
        0.06, 0.04, 0.2, "a trajectory repeats what runs for so long: the controller may start it so late", "s"
    )
    late_s: float = _between(
        0.35, 0.02, 10.0, "an older observation, when its chunk's turn comes, makes the guard slow down (DEGRADED)", "s"
    )
    estop_timeout_s: float = _between(
        0.0, 0.0, 10.0, "silence of this long on the e-stop topic counts as pressed; 0: it is no heartbeat", "s"
    )


@dataclass(frozen=True)
class SimConfig:
    """The built-in simulator."""

    renderer: str = _one_of("ray", RENDERERS, "auto: egl, then osmesa, then ray, the first that draws")
    width: int = _between(128, 32, 1920, "camera image width", "px")
    height: int = _between(128, 32, 1080, "camera image height", "px")
    task: str = _doc("apple", "apple, bottle or banana")
    seed: int = _between(0, 0, 2**31 - 1, "seed of the placements")
    looks: bool = _doc(False, "randomise lights, colours, textures, camera pose and distractors at each reset")
    episode_s: float = _between(20.0, 1.0, 600.0, "longest episode of an evaluation", "s")
    image_hz: float = _between(10.0, 1.0, 60.0, "camera rate of the sim node", "Hz")
    state_hz: float = _between(100.0, 10.0, 1000.0, "joint state rate of the sim node", "Hz")
    lock_step: bool = _doc(False, "advance one period per trajectory message instead of with the wall clock")


NO_GRIPPER = "none"
"""Value of arm.gripper_joint for an arm without a gripper."""


@dataclass(frozen=True)
class ArmConfig:
    """What the arm's joints are called on `joint_states` and in trajectories: set once, for every node and tool."""

    joint_prefix: str = _doc("", "stands before joint_1 ... joint_7 and the gripper's joint, as ros2_kortex' prefix")
    joint_names: tuple[str, ...] = _doc((), "seven names in the order of joint_1 ... joint_7; empty: prefix and number")
    gripper_joint: str = _doc("", "name of the gripper's joint; none: no gripper; empty: prefix and the 2F-85's")
    gripper_closed_rad: float = _between(GRIPPER_CLOSED_RAD, 0.01, 3.2, "its position when closed; open is 0", "rad")
    part_age_s: float = _between(
        1.0, 0.05, 60.0, "joints that come in messages of their own, as a gripper's, may be so far apart in time", "s"
    )

    def __post_init__(self) -> None:
        """Raises ConfigError for names that are not seven, not different, or given beside a prefix."""
        names = self.joint_names
        if names and (len(set(names)) != len(JOINTS) or len(names) != len(JOINTS)):
            raise ConfigError(f"arm: joint_names has {len(set(names))} different names; valid: {len(JOINTS)}, or none")
        if names and self.joint_prefix:
            raise ConfigError("arm: joint_names and joint_prefix are both set; valid: one of them, names stand whole")
        if self.gripper_joint in self.joints.arm:
            raise ConfigError(f"arm: gripper_joint '{self.gripper_joint}' is a joint of the arm; valid: another")

    @property
    def joints(self) -> ArmJoints:
        """Names of arm and gripper on the topics."""
        arm = self.joint_names or tuple(self.joint_prefix + name for name in JOINTS)
        gripper = self.gripper_joint or self.joint_prefix + GRIPPER_JOINT
        return ArmJoints(arm, "" if gripper == NO_GRIPPER else gripper, self.gripper_closed_rad)


GEN3_ARM = ArmConfig()
"""Names as ros2_kortex has them without a prefix, and a 2F-85."""


@dataclass(frozen=True)
class NodeConfig:
    """The policy node's inputs."""

    instruction: str = _doc("", "the task in words until one comes on the topic instruction; empty: wait for one")
    image_age_s: float = _between(
        0.3, 0.02, 10.0, "an image older than this is not used: the policy sends no chunk, and the guard holds", "s"
    )
    image_px: int = _between(4_147_200, 1, 100_000_000, "an image of more pixels is refused before it is decoded", "px")
    sync_s: float = _between(0.08, 0.001, 1.0, "largest difference of the stamps of one observation", "s")
    deadline_ms: float = _between(100.0, 1.0, 10_000.0, "a policy call longer than this counts as a miss", "ms")


@dataclass(frozen=True)
class Config:
    """Everything a deployment may set."""

    policy: PolicyConfig = field(default_factory=PolicyConfig)
    prune: PruneConfig = field(default_factory=PruneConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
    sim: SimConfig = field(default_factory=SimConfig)
    node: NodeConfig = field(default_factory=NodeConfig)
    arm: ArmConfig = field(
        default_factory=ArmConfig,
        metadata={"doc": "names of the joints: joint_prefix or joint_names, gripper_joint"},
    )


def load(path: str | Path) -> Config:
    """Read a YAML file. Raises ConfigError for a missing file, bad YAML, unknown keys, wrong types and ranges."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read configuration '{path}': {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"'{path}' is no text: {error}") from error
    try:
        data = documents.from_yaml(text)
    except ValueError as error:
        raise ConfigError(f"'{path}' cannot be read: {error}") from error
    return from_mapping(data or {}, str(path))


def from_mapping(data: Any, where: str = "configuration") -> Config:
    """Nested mapping to `Config`. Raises ConfigError."""
    return typing.cast(Config, _build(Config, data, where))


def override(config: Config, **changes: Any) -> Config:
    """Copy with dotted keys replaced, e.g. `override(c, **{"prune.ratio": 0.4})`. Raises ConfigError."""
    data = dataclasses.asdict(config)
    for key, value in changes.items():
        *sections, name = key.split(".")
        place: Any = data
        for section in sections:
            place = place.get(section)
            if not isinstance(place, dict):
                raise ConfigError(unknown("configuration section", key, data))
        if not sections:
            raise ConfigError(unknown("configuration section", key, data))
        place[name] = value
    return from_mapping(data, "override")


def override_texts(config: Config, texts: Sequence[str]) -> Config:
    """Copy with "section.key=value" texts applied, values read as YAML. Raises ConfigError."""
    return override(config, **values_of(texts))


def values_of(texts: Sequence[str]) -> dict[str, Any]:
    """ "key=value" texts as a mapping, values read as YAML. Raises ConfigError."""
    changes = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"'{text}' is not an override; valid: section.key=value, e.g. prune.ratio=0.4")
        try:
            changes[key.strip()] = documents.from_yaml(value)
        except ValueError as error:
            raise ConfigError(f"'{short(text)}': the value is {short(error)}") from error
    return changes


def shipped(name: str) -> Path:
    """Path of a file of config/, in the source tree or installed. Raises ConfigError listing what exists."""
    for folder in _config_folders():
        path = folder / name
        if path.is_file():
            return path
    have = sorted({p.name for f in _config_folders() if f.is_dir() for p in f.iterdir() if p.is_file()})
    raise ConfigError(unknown("configuration file", name, have))


def _config_folders() -> tuple[Path, ...]:
    import sys

    here = Path(__file__).resolve()
    install = [p / "share" / "ecovla_ros" / "config" for p in here.parents[:6]]
    return (here.parents[1] / "config", *install, Path(sys.prefix) / "share" / "ecovla_ros" / "config")


def _build(cls: type, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected a mapping of {', '.join(f.name for f in dataclasses.fields(cls))}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    values = {}
    for key, value in data.items():
        if key not in fields:
            raise ConfigError(f"{where}: " + unknown("key", key, fields))
        here = f"{where}: {key}"
        if dataclasses.is_dataclass(hints[key]):
            values[key] = _build(typing.cast(type, hints[key]), value, here)
        else:
            values[key] = _checked(_typed(hints[key], value, here), fields[key].metadata, here)
    return cls(**values)


def _typed(hint: Any, value: Any, where: str) -> Any:
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        if isinstance(value, str) or not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where}: expected a list of {inner.__name__}, got {value!r}")
        return tuple(_typed(inner, v, where) for v in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{where}: expected {hint.__name__}, got {value!r}")
    return value


def _checked(value: Any, meta: Any, where: str) -> Any:
    for one in value if isinstance(value, tuple) else (value,):
        if "choices" in meta and one not in meta["choices"]:
            raise ConfigError(f"{where}: " + unknown("value", one, meta["choices"]))
        if "range" in meta:
            low, high = meta["range"]
            if not low <= one <= high:  # also false for NaN
                raise ConfigError(f"{where}: {one} is outside [{low}, {high}] {meta.get('unit', '')}".rstrip())
    return value
