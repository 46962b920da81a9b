"""Thawline: self-configuring medical image classification by transfer learning.

::

    result = thawline.run("data", "runs/first")
    model = thawline.load_model("runs/first")
    model.predict_proba(["film.png"])
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_DOOR = {  # name: the module it lives in; loaded when first asked for, so that importing thawline stays fast
    "Contract": "types",
    "Dataset": "data.dataset",
    "DataError": "errors",
    "InputError": "errors",
    "LeakError": "errors",
    "Model": "share.bundle",
    "OwnNetwork": "learn.networks",
    "Plan": "plan",
    "RunOptions": "options",
    "RunResult": "job",
    "ThawClassifier": "estimator",
    "ThawlineError": "errors",
    "load_dataset": "data.dataset",
    "load_model": "share.bundle",
    "plan_only": "job",
    "read_plan": "plan",
    "run": "job",
}
__all__ = ["__version__", *_DOOR]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _DOOR:
        return getattr(importlib.import_module(f"thawline.{_DOOR[name]}"), name)
    raise AttributeError(f"module 'thawline' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
