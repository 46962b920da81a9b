"""The nearest of many rows: one index for pictures and for features (HNSW: Malkov and Yashunin, IEEE TPAMI 42:824, 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from thawline.types import IntArray

EXACT_ITEMS = 4096  # up to so many the index is searched whole


class Neighbours:
    """Rows, float32 of shape (items, columns), to be searched by cosine; the same each time, as one thread does it."""

    def __init__(self, rows: NDArray[np.float32]) -> None:
        from usearch.index import Index

        self._n_items = len(rows)
        self._index = Index(ndim=rows.shape[1], metric="cos", dtype="f32")
        self._index.add(np.arange(len(rows)), rows, threads=1)  # several threads would lay out the graph by chance

    def search(self, queries: NDArray[np.float32], n_sought: int) -> tuple[IntArray, NDArray[Any]]:
        """Return the positions of the nearest rows, nearest first, and their cosine distances: both (queries, n_sought)."""
        found = self._index.search(queries, n_sought, exact=self._n_items <= EXACT_ITEMS, threads=1)
        return found.keys.astype(np.int64), found.distances
