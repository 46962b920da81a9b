"""Make torchvision importable beside a CPU build of torch.

PyPI's torchvision for Linux is linked against CUDA. Beside the CPU build of torch its compiled operators cannot load, and
``import torchvision`` (so timm, too) dies with ``operator torchvision::nms does not exist``. Declaring the schemas of
the two operators first makes the pure-Python parts importable, which is all that Thawline uses.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def import_torchvision() -> ModuleType:
    """Import torchvision, declaring its missing operators where the import needs that, and only there."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    import torch

    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # what the failed import left half done
    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", _SCHEMA)
    return importlib.import_module("torchvision")
