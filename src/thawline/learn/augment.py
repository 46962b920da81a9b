"""Views: an image as it could have been taken, drawn from its content, a number and the seed.

The transformations are torchvision's (v2, functional); their parameters come from a generator of the view's own, so that
views can be drawn in threads, in any order, and cached by content.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.learn.torchvision_operators import import_torchvision
from thawline.types import Augmentation

if TYPE_CHECKING:
    from thawline.types import Inputs

AUGMENT_VERSION = 1  # part of the key of every view: raise it when the same draw would give another image


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """One way to look at every item: number 0 is the clean image, the others are drawn with ``augmentation``."""

    number: int = 0
    seed: int = 0
    augmentation: Augmentation | None = None

    def to_json(self) -> Any:
        """Return plain JSON data: part of the key of a cached view."""
        return 0 if self.augmentation is None else {"version": AUGMENT_VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, data: Any) -> View:
        """Rebuild from `to_json`; raises KeyError, TypeError or ValueError for anything else, another version too."""
        if data == 0:
            return cls()
        if data["version"] != AUGMENT_VERSION:
            raise ValueError(
                f"views of version {data['version']}, where this Thawline draws those of {AUGMENT_VERSION}"
            )
        return cls(int(data["number"]), int(data["seed"]), Augmentation.from_json(data["augmentation"]))


CLEAN = View()


def list_views(n_views: int, seed: int, augmentation: Augmentation) -> tuple[View, ...]:
    """Return the clean view and ``n_views`` augmented ones."""
    return (CLEAN, *(View(number, seed, augmentation) for number in range(1, n_views + 1)))


def augment(inputs: Inputs, view: View, digest: str) -> Inputs:
    """Return the view of one prepared image, (size_px, size_px, 3), uint8 or float32 on the 0 to 255 scale.

    The slices of a bag, (slices, size_px, size_px, 3), are all seen alike.
    ``digest`` is that of its content: the same image gets the same view, whatever else is drawn. What a turn or a shift
    uncovers is black. All parameters are drawn evenly from their ranges; shares of tone and colour are at most 1, hue 0.5.
    """
    recipe = view.augmentation
    if recipe is None:
        return inputs
    if inputs.ndim > 3:
        return np.stack([augment(each, view, digest) for each in inputs])
    key = hashlib.sha256(f"{digest} {view.number} {view.seed}".encode()).digest()
    draw = np.random.Generator(np.random.PCG64(int.from_bytes(key[:16], "big")))
    angle = draw.uniform(-recipe.turn_deg, recipe.turn_deg)
    shift_px = draw.uniform(-recipe.shift, recipe.shift, 2) * inputs.shape[0]
    scale = draw.uniform(*recipe.scale)
    quarters, sides, upside = draw.integers([4, 2, 2])
    tones = draw.uniform(-1, 1, 3) * (recipe.tone, recipe.tone, recipe.colour)
    hue = draw.uniform(-recipe.hue, recipe.hue)
    if recipe.flip_sides and sides:
        inputs = inputs[:, ::-1]
    if recipe.flip_vertically and upside:
        inputs = inputs[::-1]
    if recipe.quarter_turns:
        inputs = np.rot90(inputs, quarters)
    picture = _move(_wrap(np.ascontiguousarray(inputs)), float(angle), shift_px.tolist(), float(scale))
    return _unwrap(_recolour(picture, *(1 + tones).tolist(), hue=float(hue)))


def _wrap(inputs: Inputs) -> Any:
    """Hand an image to torchvision: 8 bits as Pillow's, which is several times as fast, else a tensor from 0 to 1."""
    if inputs.dtype == np.uint8:
        from PIL import Image

        return Image.fromarray(inputs)
    import torch

    return torch.from_numpy(inputs).permute(2, 0, 1) / 255


def _unwrap(picture: Any) -> Inputs:
    """Reverse `_wrap`."""
    import torch

    if isinstance(picture, torch.Tensor):
        found: Inputs = picture.mul(255).permute(1, 2, 0).contiguous().numpy()
        return found
    return np.array(picture)


def _move(picture: Any, angle_deg: float, shift_px: list[float], scale: float) -> Any:
    """Turn, shift and scale about the centre; an image that stays where it is keeps its very pixels."""
    if not angle_deg and not any(shift_px) and scale == 1:
        return picture
    import_torchvision()
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    return functional.affine(picture, angle_deg, shift_px, scale, [0.0, 0.0], InterpolationMode.BILINEAR)


def _recolour(picture: Any, brightness: float, contrast: float, saturation: float, *, hue: float) -> Any:
    """Change what is asked for: factors of 1 and a hue of 0 leave the picture alone."""
    import_torchvision()
    from torchvision.transforms.v2 import functional

    if brightness != 1:
        picture = functional.adjust_brightness(picture, brightness)
    if contrast != 1:
        picture = functional.adjust_contrast(picture, contrast)
    if saturation != 1:
        picture = functional.adjust_saturation(picture, saturation)
    return functional.adjust_hue(picture, hue) if hue else picture
