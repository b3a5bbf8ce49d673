"""Published weights by name: safetensors in one file or in shards, or a PyTorch archive. Strict: nothing is guessed."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ecovla_ros import documents
from ecovla_ros.errors import CheckpointError
from ecovla_ros.models.data.folder import of_weights_file

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
Shape = tuple[int, ...]
_WRAPPER = re.compile(r"(^|(?<=^model\.))(module\.|_orig_mod\.)+|(?<=\.)_orig_mod\.")
_ADAPTER = re.compile(r"\.lora_|^base_model\.model\.|\.lora[AB]\b")
_QUANTISED = re.compile(r"\.(qweight|qzeros|SCB|absmax|quant_map|weight_scale|weight_scale_inv|input_scale)$")
SAMPLED = 4096
"""Numbers of a matrix that are looked at before all of them."""
EMPTY_SHARE = 0.25
"""Of the matrices that are read, so many may hold zeros alone: those that training begins with."""
Module = TypeVar("Module", bound=nn.Module)


class Weights:
    """Names and shapes of a checkpoint's tensors; a tensor is read when it is asked for, and noted as used."""

    def __init__(self, shapes: Mapping[str, Shape], read: Callable[[str], Tensor], where: str) -> None:
        self.shapes, self._read, self.where = dict(shapes), read, where
        self.unused = set(shapes)
        self._matrices: list[bool] = []  # whether each that was read holds something

    def __contains__(self, name: str) -> bool:
        return name in self.shapes

    def __call__(self, name: str) -> Tensor:
        """The tensor `name`. Raises CheckpointError: missing, not finite, not floating-point."""
        if name not in self.shapes:
            raise CheckpointError(f"{self.where}: weight '{name}' is missing; {self._near(name)}")
        self.unused.discard(name)
        tensor = self._read(name)
        wide = tensor.is_floating_point() and tensor.element_size() > 1
        if not wide or (tensor.device.type != "meta" and not bool(torch.isfinite(tensor).all())):
            kind = "" if wide else f", but {str(tensor.dtype).removeprefix('torch.')}"
            raise CheckpointError(
                f"{self.where}: weight '{name}' is not finite floating-point numbers of 16 bits or more{kind}"
            )
        if tensor.device.type != "meta" and tensor.ndim > 1:
            few = tensor.reshape(-1)[:: max(1, tensor.numel() // SAMPLED)] if tensor.is_contiguous() else tensor
            self._matrices.append(bool(few.any()) or bool(tensor.any()))
        return tensor

    def unwrapped(self) -> Weights:
        """Without what wrappers leave in names: module. (training in several processes), _orig_mod. (torch.compile).

        Raises CheckpointError for LoRA weights that are not merged: alone the rest would be another policy; and for
        quantised ones, whose numbers mean something else.
        """
        packed = sorted(n for n in self.shapes if _QUANTISED.search(n) or ".quant_state." in n)
        if packed:
            raise CheckpointError(
                f"{self.where}: the weights are quantised ({packed[0]}, ...); valid: weights in bfloat16, float16 or "
                "float32"
            )
        adapters = sorted(n for n in self.shapes if _ADAPTER.search(n))
        if adapters:
            raise CheckpointError(
                f"{self.where}: {len(adapters)} weights are of a LoRA adapter that is not merged ({adapters[0]}, ...); "
                "valid: merged weights (peft: merge_and_unload)"
            )
        if not any(_WRAPPER.search(name) for name in self.shapes):
            return self
        return self.renamed(lambda name: _WRAPPER.sub("", name))

    def outline(self) -> Weights:
        """Names and shapes alone: what is read is a tensor without memory."""
        return Weights(self.shapes, lambda n: torch.empty(self.shapes[n], device="meta"), self.where)

    def renamed(self, rename: Callable[[str], str]) -> Weights:
        """The same tensors under other names. Raises CheckpointError where two would get the same name."""
        old = {rename(name): name for name in self.shapes}
        if len(old) != len(self.shapes):
            raise CheckpointError(f"{self.where}: two weights of it would have the same name in this package")
        return Weights({n: self.shapes[o] for n, o in old.items()}, lambda n: self._read(old[n]), self.where)

    def finish(self, unread: Iterable[str] = ()) -> None:
        """Raises CheckpointError if a weight was not used that does not begin with one of `unread`, or if too many hold
        nothing."""
        extra = sorted(name for name in self.unused if not name.startswith(tuple(unread)))
        if extra:
            raise CheckpointError(f"{self.where}: {len(extra)} weights too many: {', '.join(extra[:5])}")
        empty = self._matrices.count(False)
        if empty > EMPTY_SHARE * len(self._matrices):
            raise CheckpointError(
                f"{self.where}: {empty} of {len(self._matrices)} matrices hold zeros alone: the download or the copy "
                "was cut"
            )

    def _near(self, name: str) -> str:
        tail = name.rsplit(".", 2)[-2:]
        like = sorted(n for n in self.shapes if n.split(".")[-2:] == tail)[:3]
        return f"it has {', '.join(like)}" if like else f"it has {len(self.shapes)} others"


def open_safetensors(folder: Path, files: ExitStack) -> Weights:
    """Weights of `folder`, which holds model.safetensors or shards with an index; open until `files` closes.

    Raises CheckpointError: missing, truncated or malformed files, an index that names what is not there.
    """
    place: dict[str, Any] = {}
    shapes: dict[str, Shape] = {}
    paths, index = _shards(folder)
    for path in paths:
        if why := of_weights_file(path):
            raise CheckpointError(f"'{path}' {why}")
        try:
            opened = files.enter_context(safe_open(path, framework="pt"))
            for name in opened.keys():  # noqa: SIM118  (not a mapping)
                if index.get(name, path.name) == path.name:  # one that stands in two files is where the index says
                    place[name], shapes[name] = opened, tuple(opened.get_slice(name).get_shape())
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"'{path}' is not a complete safetensors file: {error}") from error
    if missing := sorted(index.keys() - shapes.keys()):
        raise CheckpointError(
            f"'{folder / INDEX}' names {len(missing)} weights that its files do not hold: {', '.join(missing[:3])}"
        )
    return Weights(shapes, lambda name: place[name].get_tensor(name), f"'{folder}'").unwrapped()


def open_archive(path: Path, *keys: str) -> Weights:
    """Tensors of a .pt file, under `keys` of its nested mappings joined by dots; only tensors are unpickled.

    Raises CheckpointError: missing, truncated, holding other things than tensors, or without one of `keys`.
    """
    if not path.is_file():
        raise CheckpointError(f"no weights file '{path}'")
    if why := of_weights_file(path):
        raise CheckpointError(f"'{path}' {why}")
    try:
        data = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, ValueError, EOFError) as error:
        raise CheckpointError(f"'{path}' is not a PyTorch archive of tensors: {error}") from error
    for key in keys:
        if not isinstance(data, Mapping) or key not in data:
            raise CheckpointError(f"'{path}' has no '{key}'; it has {_names(data)}")
        data = data[key]
    tensors = _flat("", data)
    return Weights({k: tuple(t.shape) for k, t in tensors.items()}, lambda k: tensors[k], f"'{path}'")


def fill(module: nn.Module, weights: Iterable[tuple[str, Tensor]], where: str) -> None:
    """Copy named `weights` into `module` as they come, so that only one is held beside it: every one and no other.

    Raises CheckpointError naming the difference.
    """
    expected = module.state_dict()
    missing = set(expected)
    for name, value in weights:
        if name not in expected:
            raise CheckpointError(f"{where}: the model has no weight {name}")
        if value.shape != expected[name].shape:
            raise CheckpointError(
                f"{where}: {name} has shape {tuple(value.shape)}; the configuration needs {tuple(expected[name].shape)}"
            )
        with torch.no_grad():
            expected[name].copy_(value)
        missing.discard(name)
    if missing:
        raise CheckpointError(f"{where}: {len(missing)} missing weights: {', '.join(sorted(missing)[:5])}")


class _Blank(TorchFunctionMode):
    """Where a random tensor is asked for, memory is given as it is."""

    def __torch_function__(
        self, function: Any, types: Any, arguments: Any = (), keywords: Mapping[str, Any] | None = None
    ) -> Any:
        keywords = dict(keywords or {})
        if function is torch.randn:
            return torch.empty(*arguments, **keywords)
        if getattr(function, "__module__", "") == "torch.nn.init" or function in (Tensor.uniform_, Tensor.normal_):
            return arguments[0] if arguments else keywords["tensor"]
        return function(*arguments, **keywords)


def blank(make: Callable[[], Module], device: str | torch.device, dtype: torch.dtype) -> Module:
    """What `make` builds, on `device` and in `dtype`, its weights not yet written: for `fill`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device), _Blank():
            return make()
    finally:
        torch.set_default_dtype(before)


def read_json(path: Path) -> Any:
    """Raises CheckpointError: missing, not JSON."""
    try:
        return documents.read_json(path)
    except OSError as error:
        raise CheckpointError(f"cannot read '{path}': {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"'{path}' is not JSON: {error}") from error


def _shards(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """Files of the weights, and, of several, which weight lies in which. Raises CheckpointError."""
    for path in (folder / SINGLE, folder / INDEX):
        if path.is_symlink() and not path.exists():
            raise CheckpointError(f"'{path}' {documents.instead(path)}")
    if (folder / SINGLE).is_file():
        return [folder / SINGLE], {}
    if not (folder / INDEX).is_file():
        have = ", ".join(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else "no such folder"
        raise CheckpointError(f"'{folder}' has neither {SINGLE} nor {INDEX}; found: {have or 'nothing'}")
    index = read_json(folder / INDEX)
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not names or not all(isinstance(v, str) for v in names.values()):
        raise CheckpointError(f"'{folder / INDEX}' has no weight_map of names to files")
    place = {name: Path(file).name for name, file in names.items()}
    paths = sorted({folder / file for file in place.values()})
    missing = [p.name for p in paths if not p.is_file()]
    if missing:
        raise CheckpointError(f"'{folder}' lacks the shards {', '.join(missing)}, which its index names")
    return paths, place


def _flat(prefix: str, data: Any) -> dict[str, Tensor]:
    if isinstance(data, Tensor):
        return {prefix: data}
    if not isinstance(data, Mapping):
        return {}
    out: dict[str, Tensor] = {}
    for key, value in data.items():
        out |= _flat(f"{prefix}.{key}" if prefix else str(key), value)
    return out


def _names(data: Any) -> str:
    return ", ".join(map(str, data)) if isinstance(data, Mapping) else type(data).__name__
