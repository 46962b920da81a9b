"""Pixels to the input of a backbone: range, aspect, size, three channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from thawline.errors import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image

    from thawline.types import Contract, Inputs, Pixels


def prepare(pixels: Pixels, contract: Contract) -> Inputs:
    """Bring pixels into the shape that a contract asks for: (size_px, size_px, 3).

    Without ``wide_range`` the pixels must be uint8 and the result is uint8; with it the result is float32 on the 0 to
    255 scale, where wider pixels run from black to white of the range and 8-bit pixels keep their values. Resized by
    Pillow, with antialiasing. Raises ImageError where the contract holds 8-bit images only and the pixels are wider.
    """
    from PIL import Image

    if contract.grey and pixels.ndim == 3 and not bool((pixels == pixels[..., :1]).all()):
        raise ImageError("a colour image, but the model was made for grey ones only (--grey sum); convert it to grey")
    if contract.wide_range is None:
        if pixels.dtype != np.uint8:
            raise ImageError(f"{pixels.dtype} pixels, but the model was made from 8-bit images only; convert to 8 bits")
        fitted = np.array(fit(Image.fromarray(np.ascontiguousarray(pixels)), contract))
    else:
        scaled = scale_wide(pixels, contract.wide_range)
        planes = [scaled] if scaled.ndim == 2 else [scaled[..., channel] for channel in range(3)]
        resized = [np.array(fit(Image.fromarray(np.ascontiguousarray(plane)), contract)) for plane in planes]
        fitted = np.clip(resized[0] if len(planes) == 1 else np.stack(resized, axis=2), 0, 255)  # bicubic overshoots
    return fitted if fitted.ndim == 3 else np.stack([fitted] * 3, axis=2)


def scale_wide(pixels: Pixels, wide_range: tuple[float, float]) -> Pixels:
    """Map (low, high) to 0 to 255, float32, values outside clipped; 8-bit pixels keep their values."""
    if pixels.dtype == np.uint8:
        return pixels.astype(np.float32)
    low, high = _check_range(wide_range)
    share = (np.clip(pixels.astype(np.float64), low, high) - low) / (high - low)
    return (share * 255).astype(np.float32)


def _check_range(wide_range: tuple[float, float]) -> tuple[float, float]:
    """Return (low, high), or refuse a range that nothing can be scaled by."""
    low, high = wide_range
    if not low < high:
        raise ImageError(f"the contract's range of wide pixels runs from {low} to {high}; it must rise")
    return low, high


def fit(image: Image, contract: Contract) -> Image:
    """Resize an image of mode L, RGB or F to a square of ``size_px`` as the contract's aspect says.

    ``letterbox`` rounds the short side half up, to at least one pixel, and gives the odd pixel of padding to the right
    or the bottom; ``crop`` resizes the centred square of the original, at fractions of a pixel where it has to.
    """
    from PIL import Image as PillowImage

    size = contract.size_px
    resample = {"bicubic": PillowImage.Resampling.BICUBIC, "bilinear": PillowImage.Resampling.BILINEAR}
    method, (width, height) = resample[contract.interpolation], image.size
    if contract.aspect == "squash" or width == height:
        return image.resize((size, size), method)
    if contract.aspect == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return image.resize((size, size), method, box=(left, top, left + side, top + side))
    long = max(width, height)
    inner_width, inner_height = (max(1, (2 * side * size + long) // (2 * long)) for side in (width, height))
    square = PillowImage.new(image.mode, (size, size))
    square.paste(
        image.resize((inner_width, inner_height), method), ((size - inner_width) // 2, (size - inner_height) // 2)
    )
    return square
