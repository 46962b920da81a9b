"""Small networks, and activations from an array, that tests of training share."""

from __future__ import annotations

import numpy as np
import torch


class HalfBlind(torch.nn.Module):
    """A frozen layer and one that can be thawed; the second sees only half of what tells the classes apart."""

    def __init__(self) -> None:
        super().__init__()
        self.bottom, self.top, self.act = torch.nn.Linear(12, 12), torch.nn.Linear(12, 8), torch.nn.ReLU()
        with torch.no_grad():
            self.bottom.weight.copy_(torch.eye(12))
            self.top.weight[:, :6] = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.act(self.top(self.bottom(images)))
        return features


class Table:
    """Activations of items from an array."""

    n_views = 0

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows

    def take(self, items: np.ndarray, _views: np.ndarray) -> torch.Tensor:
        return self.rows[items]
