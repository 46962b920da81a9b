"""Files to features: decoding threads feed the engine, results go to the cache by content, a hit costs no decode."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from thawline.cache import Space, evict
from thawline.data.readers import READER_VERSION, decode, decode_bag, read_content
from thawline.data.transforms import prepare
from thawline.errors import DataError, ImageError
from thawline.learn.augment import CLEAN, View, augment
from thawline.learn.engine import ENGINE_VERSION, list_versions, name_engine, open_engine
from thawline.learn.weight_files import Weights
from thawline.types import Contract, Hardware, Listener

if TYPE_CHECKING:
    from thawline.types import Content, Features, Inputs

SHARD_BYTES = 64 * 2**20  # as float32, while it is gathered
SHARD_SECONDS = 20.0  # a kill loses at most this much work


@dataclasses.dataclass(frozen=True, slots=True)
class Extraction:
    """Features of items in their order, and how many different images were computed or found in the cache."""

    features: Features
    n_computed: int
    n_cached: int


def open_space(weights: Weights, contract: Contract, hardware: Hardware, view: View = CLEAN) -> Space:
    """Open the part of the cache that holds what these weights compute of one view under this contract."""
    description = {
        "reader": READER_VERSION,
        "engine": [ENGINE_VERSION, name_engine(hardware), hardware.device, list_versions()],
        "weights": weights.sha256,
        "architecture": weights.architecture.to_json(),
        "contract": contract.to_json(),
        "cut": weights.describe_output(),
        "view": view.to_json(),
    }
    return Space("features", description)


def extract(
    contents: Sequence[Content],
    digests: Sequence[str],
    weights: Weights,
    contract: Contract,
    hardware: Hardware,
    listener: Listener,
    step: str = "features",
    view: View = CLEAN,
) -> Extraction:
    """Return the features of one view of all items, computing those that the cache does not hold.

    ``digests`` are the content digests of the items, as `scan` finds them. Raises DataError where an item has become
    unreadable since, and OutputError where the cache cannot be written.
    """
    space, n_computed, n_found = fill_space(contents, digests, weights, contract, hardware, listener, step, view)
    features = np.empty((len(digests), _count_features(space)), np.float32)
    space.read(digests, features)
    return Extraction(features, n_computed, n_found)


def fill_space(
    contents: Sequence[Content],
    digests: Sequence[str],
    weights: Weights,
    contract: Contract,
    hardware: Hardware,
    listener: Listener,
    step: str,
    view: View = CLEAN,
) -> tuple[Space, int, int]:
    """Compute what the cache does not hold of one view of all items; return its space, and how many were computed and found.

    Raises as `extract`.
    """
    space = open_space(weights, contract, hardware, view)
    first = {digest: index for index, digest in reversed(list(enumerate(digests)))}
    missing = [digest for digest in dict.fromkeys(digests) if digest not in space]
    listener.begin(step, len(missing))
    if missing:
        evict(keep=[space.folder])
        chosen = [contents[first[digest]] for digest in missing]
        inputs = prepare_all(
            chosen, contract, hardware.cores, lambda index, image: augment(image, view, missing[index])
        )
        _compute(inputs, missing, space, weights, contract, hardware, listener)
    n_cached = len(first) - len(missing)
    listener.end(f"{len(missing)} computed, {n_cached} from the cache" if missing else f"all {n_cached} from the cache")
    return space, len(missing), n_cached


def _compute(
    inputs: Generator[Inputs, None, None],
    digests: Sequence[str],
    space: Space,
    weights: Weights,
    contract: Contract,
    hardware: Hardware,
    listener: Listener,
) -> None:
    """Run the engine over ``inputs`` and write shards as they fill, the last one also when interrupted."""
    engine = open_engine(weights, contract, hardware)
    rows: list[Features] = []
    n_written, n_waiting, written_at = 0, 0, time.monotonic()

    def write() -> None:
        nonlocal n_written, n_waiting, written_at
        if rows:
            shard = _round(np.concatenate(rows), weights, contract)
            space.write(digests[n_written : n_written + len(shard)], shard)
            n_written += len(shard)
        rows.clear()
        n_waiting, written_at = 0, time.monotonic()

    try:
        with closing(inputs), closing(engine.run(batch_inputs(inputs, engine.batch_items))) as batches:
            for features in batches:
                rows.append(features)
                n_waiting += len(features)
                listener.advance(len(features))
                if n_waiting * features[0].nbytes >= SHARD_BYTES or time.monotonic() - written_at > SHARD_SECONDS:
                    write()
    finally:
        write()


def prepare_all(
    contents: Sequence[Content],
    contract: Contract,
    threads: int,
    change: Callable[[int, Inputs], Inputs] | None = None,
) -> Generator[Inputs, None, None]:
    """Decode and resize in ``threads`` threads, a bounded number of items ahead of the engine. Raises DataError.

    ``change`` is given the position and the prepared image of each item, and returns what is taken in its place.
    """

    def prepare_one(index: int, content: Content) -> Inputs:
        try:
            data, size_px, reading = read_content(content), contract.size_px, contract.reading
            if reading.n_slices:
                bag = decode_bag(data, reduce_to_px=size_px, reading=reading)
                image = np.stack([prepare(each, contract) for each in bag])
            else:
                image = prepare(decode(data, reduce_to_px=size_px, reading=reading), contract)
            return change(index, image) if change else image
        except ImageError as error:
            name = content if isinstance(content, Path) else "an array"
            raise DataError(f"{name} cannot be prepared for the network: {error}") from error

    waiting: deque[Future[Inputs]] = deque()
    most = threads + (7 * threads + 64) // max(1, contract.reading.n_slices)
    with ThreadPoolExecutor(threads) as pool:
        try:
            for index, content in enumerate(contents):
                waiting.append(pool.submit(prepare_one, index, content))
                if len(waiting) > most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def batch_inputs(inputs: Iterator[Inputs], n_items: int) -> Iterator[Inputs]:
    """Stack single inputs into batches of ``n_items``; the last one may be smaller."""
    batch: list[Inputs] = []
    for item in inputs:
        batch.append(item)
        if len(batch) == n_items:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)


def _round(features: Features, weights: Weights, contract: Contract) -> Features:
    """Round to the precision that the contract states; raises DataError where a feature does not fit.

    Activations at lines may be infinite: the training above that line says so, and others have no part in it.
    """
    with np.errstate(over="ignore"):
        rounded: Features = features.astype(contract.feature_dtype)
    if not weights.taps and not np.isfinite(rounded).all():
        raise DataError(
            f"{int((~np.isfinite(rounded)).any(axis=1).sum())} items give features of {weights.architecture.name} that are "
            f"not finite or beyond {contract.feature_dtype}; check the weights and the value range of the images"
        )
    return rounded


def _count_features(space: Space) -> int:
    return int(space.row_shape[0])
