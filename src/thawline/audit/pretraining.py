"""What weights bring with them: a licence that may forbid some uses, and images that DATA may hold as well."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import TypeAlias

from thawline.data.dataset import Dataset
from thawline.learn.weight_files import Weights

Remark: TypeAlias = dict[str, str]  # level and text, as `share.cautions` has them

PERMISSIVE = (
    "Apache-2.0",
    "MIT",
    "BSD",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0",
    "CC0-1.0",
    "CC BY 4.0",
    "CC BY 4.0 (VGG)",
    "public domain",
)


@dataclasses.dataclass(frozen=True, slots=True)
class PublicSet:
    """A public set that weights were trained on: what it holds, and how its files are named, where that tells."""

    name: str
    modalities: tuple[str, ...]
    file_name: str | None = None
    aliases: tuple[str, ...] = ()


PUBLIC_SETS = (
    PublicSet("ChestX-ray14", ("xray",), r"\d{8}_\d{3}\.\w+", ("ChestX-ray8", "NIH chest")),
    PublicSet("PadChest", ("xray",), r"\d{30,}_\d\d-\d{3}-\d{3}\.\w+"),
    PublicSet("CheXpert", ("xray",), r"view\d_(frontal|lateral)\.\w+"),
    PublicSet("MIMIC-CXR", ("xray",), r"[0-9a-f]{8}(-[0-9a-f]{8}){4}\.\w+"),
    PublicSet("Open-I", ("xray",), r"CXR\d+_.*IM-.*"),
    PublicSet("RSNA Pneumonia", ("xray",)),
    PublicSet("RadImageNet", ("ct", "mri", "ultrasound")),
)


def check_weights(dataset: Dataset, weights: Weights, modality: str) -> list[Remark]:
    """Return what a user must know of the weights before using them on these data, as level and text.

    Items count as seen where the file that they come from, as their path or any column of the manifest names it, is named
    as the set's own are.
    """
    name = weights.architecture.name
    found = []
    if (said := describe_licence(weights.licence)) is not None:
        found.append({"level": "caution", "text": f"The weights of {name}: {said}"})
    for known in PUBLIC_SETS:
        if not any(_plain(each) in _plain(weights.pretrained_on) for each in (known.name, *known.aliases)):
            continue
        trained = f"The weights of {name} were trained on {known.name}."
        seen = count_named(dataset, known)
        if seen:
            found.append(
                {
                    "level": "warning",
                    "text": f"{trained} {seen} of {len(dataset.items)} items are named as its images are: the network has "
                    "likely seen them, and all figures are too good. Take other weights, or leave these items out.",
                }
            )
        elif modality in ("unknown", *known.modalities):
            found.append(
                {
                    "level": "caution",
                    "text": f"{trained} Where these data hold images of it, the network has seen them, and the figures are "
                    "too good.",
                }
            )
    return found


def describe_licence(licence: str) -> str | None:
    """Return what to heed of a licence; None where it forbids neither clinical nor commercial use."""
    if _plain(licence) in map(_plain, PERMISSIVE):
        return None
    return f'their licence, "{licence}", may forbid clinical or commercial use; read it before you use them.'


def _plain(text: str) -> str:
    """Return letters and digits alone, in small."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


def count_named(dataset: Dataset, known: PublicSet) -> int:
    """Count the items that are named as the images of a public set are."""
    if known.file_name is None:
        return 0
    pattern = re.compile(known.file_name, re.IGNORECASE)
    return sum(any(map(pattern.fullmatch, _names(item.path, item.metadata))) for item in dataset.items)


def _names(path: str, metadata: Mapping[str, str]) -> Iterable[str]:
    return (PurePosixPath(value.replace("\\", "/")).name for value in (path, *metadata.values()))
