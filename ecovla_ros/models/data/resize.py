"""Images to the square a model takes. How a checkpoint's training did it is part of the checkpoint's meaning."""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ecovla_ros.errors import ConfigError, unknown

Image = NDArray[np.uint8]

FITS = ("area", "pad", "crop", "bicubic")
"""area: stretched, mean over areas (mini). pad: in proportion, on black, bilinear (openpi, lerobot). crop: stretched by
Lanczos' filter, then the middle 0.9 of the area (OpenVLA-OFT, but for the JPEG its evaluation makes of simulated images
first). bicubic: stretched (CogACT)."""

CROP = 0.9
"""Share of the area that `crop` keeps."""


ON_A_DEVICE = ("pad", "crop", "bicubic")
"""Those whose filter is torch's, and runs where the image is. OpenCV's mean over areas runs on the host alone."""


def resize(image: Image, size: int, fit: str = "area") -> Image:
    """(H, W, 3) uint8 to (size, size, 3), the same for training and inference. Raises ConfigError: an unknown fit."""
    if fit not in FITS:
        raise ConfigError(unknown("fit", fit, FITS))
    if fit == "area":
        square = image.shape[:2] == (size, size)
        return image if square else cast(Image, cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA))
    return cast(Image, resize_tensor(torch.from_numpy(np.ascontiguousarray(image)), size, fit).numpy())


def resize_tensor(image: Tensor, size: int, fit: str) -> Tensor:
    """As `resize`, for an image (H, W, 3) uint8 on any device and a fit of `ON_A_DEVICE`."""
    square = image.shape[:2] == (size, size)
    if fit == "crop":
        return _crop(image if square else _filtered(image, size, size, "lanczos"))
    if square:
        return image
    return _filtered(image, size, size, "bicubic") if fit == "bicubic" else _pad(image, size)


def _pad(image: Tensor, size: int) -> Tensor:
    ratio = max(image.shape[0], image.shape[1]) / size
    height, width = int(image.shape[0] / ratio), int(image.shape[1] / ratio)
    top, left = (size - height) // 2, (size - width) // 2
    out = image.new_zeros((size, size, 3))
    out[top : top + height, left : left + width] = _filtered(image, height, width, "bilinear")
    return out


def _crop(image: Tensor) -> Tensor:
    """The middle of a square image back to its size, bilinear, corners on corners (tf.image.crop_and_resize).

    Values v come back as floor(v * 255.5 / 255), as tf.image.convert_image_dtype does it.
    """
    keep, pixels = CROP**0.5, _pixels(image)
    place = torch.eye(2, 3, device=image.device).mul_(keep)[None]
    grid = F.affine_grid(place, list(pixels.shape), align_corners=True)
    out = F.grid_sample(pixels, grid, "bilinear", "border", align_corners=True)
    return _image((out * (255.5 / 255.0)).floor())


def _filtered(image: Tensor, height: int, width: int, mode: str) -> Tensor:
    """With a filter as wide as the reduction, as Pillow and TensorFlow do."""
    try:
        return _image(F.interpolate(_pixels(image), (height, width), mode=mode, antialias=True).round())
    except (NotImplementedError, ValueError) as error:  # an older torch, as a sourced ROS may bring along
        if image.is_cuda:  # some filters came to the CPU first
            return _filtered(image.cpu(), height, width, mode).to(image.device)
        raise ConfigError(f"torch {torch.__version__} has no filter '{mode}'; valid: torch 2.13") from error


def _pixels(image: Tensor) -> Tensor:
    return image.permute(2, 0, 1)[None].float()


def _image(pixels: Tensor) -> Tensor:
    return pixels.clamp(0, 255)[0].permute(1, 2, 0).to(torch.uint8).contiguous()
