"""Reads and writes the pickles of LeRobot's protocol as data. No name in a pickle is imported, and nothing is called.

A pickle is a small program that can run anything; `pickle.loads` on what a client sent gives it the machine. Here its
opcodes are read one by one (`pickletools` of the standard library knows their form), only those that plain values need
are obeyed, and the few names that LeRobot's clients send stand for this file's own: its two message classes, and
numpy's way to write an array. Everything else is refused by its name.
"""

from __future__ import annotations

import math
import pickletools
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecovla_ros.errors import ObservationError, short
from ecovla_ros.serve.codec import DTYPE, MAX_BYTES, MAX_TEXT, MAX_VALUES

HELPERS = ("lerobot.async_inference.helpers", "lerobot.scripts.server.helpers")
"""Where lerobot keeps its messages: since 0.4, and in 0.3."""
FIELDS: dict[str, tuple[str, ...]] = {
    "TimedObservation": ("timestamp", "timestep", "observation", "must_go"),
    "RemotePolicyConfig": ("policy_type", "pretrained_name_or_path", "lerobot_features", "actions_per_chunk",
                           "device", "rename_map"),
}  # fmt: skip
"""Message class -> its fields."""
NUMPY = {
    f"{base}.{name}": name
    for base, names in (
        ("numpy", ("dtype", "ndarray")),
        ("numpy.core.multiarray", ("_reconstruct", "scalar")),
        ("numpy._core.multiarray", ("_reconstruct", "scalar")),
        ("numpy.core.numeric", ("_frombuffer",)),
        ("numpy._core.numeric", ("_frombuffer",)),
    )
    for name in names
}
"""Names that numpy 1 and 2 write into a pickle -> what they mean here."""
_ARRAY_STATE, _DTYPE_STATE = 5, 8
"""Values in the state of a pickled array, and of a pickled dtype."""


@dataclass
class Pickled:
    """One of lerobot's message objects."""

    module: str
    kind: str
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Name:
    """A class or function that a pickle names. Only a word."""

    module: str
    name: str

    @property
    def full(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass
class _Type:
    """A numpy dtype, as it is being read."""

    code: str
    order: str = "="

    @property
    def numpy(self) -> np.dtype[Any]:
        code = self.order.replace("|", "") + self.code
        if not DTYPE.fullmatch(code):
            raise ValueError(f"an array of {short(code, 40)}; valid kinds: bool, integers, floats")
        return np.dtype(code)


@dataclass
class _Array:
    """A numpy array, as it is being read."""

    values: NDArray[Any] | None = None


class _Mark:
    """Where a collection begins on the stack."""


def read(data: bytes, kind: str) -> Pickled:
    """The message of class `kind` in these bytes: fields are plain values and numpy arrays.

    Raises ObservationError: too long, malformed, another class, or anything that is not needed for one.
    """
    if len(data) > MAX_BYTES:
        raise ObservationError(f"a message of {len(data)} bytes; at most {MAX_BYTES}")
    try:
        value = _PickleReader().run(data)
    except ObservationError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, struct.error) as error:
        raise ObservationError(f"a message is refused: {short(error)}") from error
    if not isinstance(value, Pickled) or value.kind != kind:
        told = value.kind if isinstance(value, Pickled) else type(value).__name__
        raise ObservationError(f"a message of class {told}; valid: {kind} of lerobot")
    missing = [name for name in FIELDS[kind][:3] if name not in value.values]
    if missing:
        raise ObservationError(f"a {kind} without {', '.join(missing)}")
    return value


class _PickleReader:
    """Obeys the opcodes of one pickle."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: list[Any] = []
        self._left = 3 * MAX_VALUES

    def run(self, data: bytes) -> Any:
        """The one value that a pickle of protocol 4 or 5 leaves. Raises ValueError and what malformed bytes raise."""
        for opcode, argument, _ in pickletools.genops(data):
            self._left -= 1
            if self._left < 0:
                raise ValueError(f"more than {MAX_VALUES} values")
            if opcode.name == "STOP":
                break
            do = _OPCODES.get(opcode.name)
            if do is None:
                raise ValueError(f"a pickle with {opcode.name}; valid: protocol 4 or 5, plain values and arrays")
            do(self, argument)
        if len(self._stack) != 1:
            raise ValueError("a pickle that does not leave one value")
        return _plain(self._stack[0])

    def push(self, value: Any) -> None:
        if isinstance(value, str) and len(value) > MAX_TEXT:
            raise ValueError(f"a text of {len(value)} characters; at most {MAX_TEXT}")
        self._stack.append(value)

    def pop(self) -> Any:
        value = self._stack.pop()
        if isinstance(value, _Mark):
            raise ValueError("a pickle whose marks do not agree")
        return _plain(value)

    def since_mark(self) -> list[Any]:
        at = len(self._stack) - 1
        while not isinstance(self._stack[at], _Mark):
            if at == 0:
                raise ValueError("a pickle without a mark")
            at -= 1
        values = [_plain(value) for value in self._stack[at + 1 :]]
        del self._stack[at:]
        return values

    def tuple_of(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    def append(self, values: Sequence[Any]) -> None:
        _of(self._stack[-1], list).extend(values)

    def set_items(self, values: Sequence[Any]) -> None:
        holder = _of(self._stack[-1], dict)
        if len(values) % 2 or not all(isinstance(key, (str, int)) for key in values[::2]):
            raise ValueError("a mapping whose keys are not text")
        holder.update(zip(values[::2], values[1::2]))

    def memoize(self) -> None:
        self._memo.append(self._stack[-1])

    def recall(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def name(self, module: Any, name: Any) -> None:
        """A class or function, which must be one of the few."""
        made = _Name(_of(module, str), _of(name, str))
        known = made.module in HELPERS and made.name in FIELDS
        if not known and made.full not in NUMPY:
            raise ValueError(
                f"'{short(made.full, 80)}' is not read from a client; valid: numbers, texts, lists, mappings and numpy "
                "arrays, as lerobot's robots give them"
            )
        self._stack.append(made)

    def call(self) -> None:
        """What stands for a function call: numpy's four."""
        arguments, function = _of(self.pop(), tuple), _of(self._stack.pop(), _Name)
        self._stack.append(_MEANT[NUMPY.get(function.full, "")](*arguments))

    def new(self) -> None:
        """An empty object of one of lerobot's classes."""
        arguments, kind = _of(self.pop(), tuple), _of(self._stack.pop(), _Name)
        if arguments or kind.name not in FIELDS:
            raise ValueError(f"an object of {short(kind.full, 80)} made of {len(arguments)} values")
        self._stack.append(Pickled(kind.module, kind.name))

    def build(self) -> None:
        """Fill what was made last."""
        state = self.pop()
        made = self._stack[-1]
        if isinstance(made, Pickled):
            foreign = [key for key in _of(state, dict) if key not in FIELDS[made.kind]]
            if foreign:
                raise ValueError(f"a {made.kind} with {short(foreign[0], 40)}; valid: {', '.join(FIELDS[made.kind])}")
            made.values.update(state)
        elif isinstance(made, _Type):
            if len(_of(state, tuple)) != _DTYPE_STATE or state[1] not in ("<", ">", "|", "="):
                raise ValueError("a dtype that is not plain")
            made.order = state[1]
        else:
            _fill(_of(made, _Array), _of(state, tuple))


def _fill(made: _Array, state: tuple[Any, ...]) -> None:
    if len(state) != _ARRAY_STATE:
        raise ValueError(f"an array with a state of {len(state)} values")
    _, shape, dtype, fortran, data = state
    made.values = _array(data, dtype, shape, "F" if fortran else "C")


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
    sides = [_of(side, int) for side in _of(shape, tuple)]
    if len(sides) > 8 or any(side < 0 for side in sides) or order not in ("C", "F"):
        raise ValueError("an array that is not plain; valid: at most 8 axes")
    if not isinstance(data, (bytes, bytearray)):
        raise ValueError(f"an array whose data are {type(data).__name__}")
    kind = _of(dtype, _Type).numpy
    if math.prod(sides) * kind.itemsize != len(data):
        raise ValueError(f"an array whose {len(data)} bytes are not its size")
    return np.frombuffer(data, kind).reshape(sides, order=order).copy()


def _scalar(dtype: Any, data: Any) -> Any:
    return _array(data, dtype, (), "C")[()].item()


def _begun(kind: Any, _shape: Any, _code: Any) -> _Array:
    if _of(kind, _Name).full != "numpy.ndarray":
        raise ValueError("an array of another class than numpy's")
    return _Array()


def _named(what: str) -> Callable[..., Any]:
    def refuse(*_arguments: Any) -> Any:
        raise ValueError(f"a call of {what}")

    return refuse


_MEANT: dict[str, Callable[..., Any]] = {
    "dtype": lambda code, _align=False, _copy=True: _Type(_of(code, str)),
    "_reconstruct": _begun,
    "scalar": _scalar,
    "_frombuffer": _array,
    "ndarray": _named("numpy.ndarray"),
    "": _named("a class"),
}


def _of(value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"a {type(value).__name__.strip('_')} where a {kind.__name__.strip('_')} is due")
    return value


def _plain(value: Any) -> Any:
    """An array that is whole, for what stood for it."""
    return value.values if isinstance(value, _Array) and value.values is not None else value


_OPCODES: dict[str, Callable[[_PickleReader, Any], None]] = {
    "PROTO": lambda r, a: None,
    "FRAME": lambda r, a: None,
    "MARK": lambda r, a: r.push(_Mark()),
    "NONE": lambda r, a: r.push(None),
    "NEWTRUE": lambda r, a: r.push(True),
    "NEWFALSE": lambda r, a: r.push(False),
    **{name: lambda r, a: r.push(a) for name in (
        "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
        "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8",
    )},
    "EMPTY_LIST": lambda r, a: r.push([]),
    "EMPTY_DICT": lambda r, a: r.push({}),
    "EMPTY_TUPLE": lambda r, a: r.push(()),
    "TUPLE1": lambda r, a: r.tuple_of(1),
    "TUPLE2": lambda r, a: r.tuple_of(2),
    "TUPLE3": lambda r, a: r.tuple_of(3),
    "TUPLE": lambda r, a: r.push(tuple(r.since_mark())),
    "APPEND": lambda r, a: r.append([r.pop()]),
    "APPENDS": lambda r, a: r.append(r.since_mark()),
    "SETITEM": lambda r, a: r.set_items([r.pop(), r.pop()][::-1]),
    "SETITEMS": lambda r, a: r.set_items(r.since_mark()),
    "MEMOIZE": lambda r, a: r.memoize(),
    "BINGET": lambda r, a: r.recall(a),
    "LONG_BINGET": lambda r, a: r.recall(a),
    "STACK_GLOBAL": lambda r, a: r.name(*[r.pop(), r.pop()][::-1]),
    "REDUCE": lambda r, a: r.call(),
    "NEWOBJ": lambda r, a: r.new(),
    "BUILD": lambda r, a: r.build(),
}  # fmt: skip
"""What is obeyed: what protocols 4 and 5 use for plain values, arrays and objects."""


def timed_actions(module: str, began_s: float, step: int, period_s: float, rows: NDArray[np.float32]) -> bytes:
    """A pickle of a list of lerobot's TimedAction, of the `module` that the client has it in, for rows (H, D).

    Row i is due at `began_s` + i periods and is step `step` + i, as lerobot's own server counts. A row becomes
    `torch.tensor` of float32 where it is unpickled. Nothing of lerobot or torch is needed to write it.
    """
    out = bytearray(b"\x80\x02](")
    for i, row in enumerate(rows):
        out += b"c" + module.encode() + b"\nTimedAction\n)\x81}("
        out += _text("timestamp") + _real(began_s + i * period_s) + _text("timestep") + _whole(step + i)
        out += _text("action") + b"ctorch\ntensor\n](" + b"".join(_real(float(v)) for v in row) + b"e\x85R"
        out += b"ub"
    return bytes(out + b"e.")


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def _real(value: float) -> bytes:
    return b"G" + struct.pack(">d", value)


def _whole(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)
