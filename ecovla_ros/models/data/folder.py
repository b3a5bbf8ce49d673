"""What a folder is that was named as a checkpoint: told by its cause before anything is read of it."""

from __future__ import annotations

from pathlib import Path

from ecovla_ros import documents
from ecovla_ros.errors import CheckpointError

CONFIG = "config.json"


def must_hold_checkpoint(folder: Path) -> None:
    """Raises CheckpointError for what is no folder of a published checkpoint, saying what it is and what to do."""
    for path in (folder, folder / CONFIG):
        if path.is_symlink() and not path.exists():
            raise CheckpointError(f"'{path}' {documents.instead(path)}")
    if folder.is_file():
        raise CheckpointError(f"'{folder}' is a file; valid: the folder that it lies in, with {CONFIG} beside it")
    if not folder.is_dir():
        raise CheckpointError(f"no folder '{folder}' here{_hub(folder)}")
    if (folder / "adapter_config.json").is_file():
        raise CheckpointError(
            f"'{folder}' holds a LoRA adapter (adapter_config.json), which is a difference to other weights; valid: "
            "weights with the adapter merged (peft: merge_and_unload, then save_pretrained)"
        )
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"'{folder}' has no {CONFIG}: {_instead(folder)}")


def of_weights_file(path: Path) -> str:
    """What is wrong with a weights file, by its first bytes; empty where they do not tell."""
    try:
        return documents.instead(path)
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _hub(folder: Path) -> str:
    text = str(folder)
    if folder.is_absolute() or text.startswith(".") or text.count("/") != 1:
        return ""
    return f"; a name on the hub is not downloaded by itself: hf download {text} --local-dir FOLDER"


def _instead(folder: Path) -> str:
    if (folder / "pretrained_model" / CONFIG).is_file():
        return f"it is a training checkpoint of lerobot; valid: '{folder / 'pretrained_model'}'"
    for depth in ("*", "*/*", "*/*/*"):
        if inner := sorted(p.parent for p in folder.glob(f"{depth}/{CONFIG}")):
            newest = next((path for path in inner if "last" in path.parts), inner[-1])
            return f"checkpoints lie within it; name one, e.g. '{newest}'"
    if (folder / "params").is_dir() or (folder / "_CHECKPOINT_METADATA").is_file() or (folder / "_METADATA").is_file():
        return (
            "it is a JAX checkpoint of openpi (params/, assets/); convert it with openpi's "
            "examples/convert_jax_model_to_pytorch.py"
        )
    if (folder / "meta/info.json").is_file():
        return "it is a LeRobot data set, not a checkpoint; valid: ecovla train --lerobot FOLDER"
    if (folder / "metadata.yaml").is_file() or any(folder.glob("*.mcap")) or any(folder.glob("*.db3")):
        return "it is a bag, not a checkpoint; valid: ecovla replay FOLDER"
    names = sorted(p.name for p in folder.iterdir())
    return f"found: {', '.join(names[:8]) or 'nothing'}"
