"""torchvision imports beside any build of torch, and other failures of its import are not hidden."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from thawline.learn.torchvision_operators import import_torchvision

USE = """
from thawline.learn.torchvision_operators import import_torchvision
first = import_torchvision()
assert import_torchvision() is first is __import__("sys").modules["torchvision"]

import torch
from torchvision import models, tv_tensors
from torchvision.transforms import v2
steps = v2.Compose([v2.Resize((8, 8)), v2.RandomHorizontalFlip(1.0), v2.ToDtype(torch.float32, scale=True)])
image = torch.arange(192, dtype=torch.uint8).reshape(3, 8, 8)
assert torch.allclose(steps(tv_tensors.Image(image)), image.flip(-1) / 255)

import timm
network = timm.create_model("resnet10t", num_classes=5).eval()
assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
assert models.squeezenet1_1().eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)
"""


@pytest.mark.slow
def test_a_fresh_interpreter_can_use_torchvision_and_timm():
    done = subprocess.run([sys.executable, "-c", USE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("error", [ImportError("no module"), RuntimeError("something else")])
def test_other_failures_of_the_import_pass_through(monkeypatch, error):
    def fail(name):
        assert name == "torchvision"
        raise error

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(type(error), match=str(error)):
        import_torchvision()
