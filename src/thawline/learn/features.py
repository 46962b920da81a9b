"""Files to features: decoding threads feed the engine, results go to the cache by content, a hit costs no decode."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from thawline.cache import Space, evict
from thawline.data.readers import READER_VERSION, check_finite, decode, decode_bag, open_stack, read_content
from thawline.data.slices import Stack, choose_slices
from thawline.data.transforms import prepare
from thawline.errors import DataError, ImageError
from thawline.learn.augment import CLEAN, View, augment
from thawline.learn.bags import LINE
from thawline.learn.engine import ENGINE_VERSION, list_versions, name_engine, open_engine
from thawline.learn.loading import fit_weights, load_backbone
from thawline.learn.slice_rows import (
    BagRows,
    Rows,
    name_row,
    open_choices,
    read_choices,
    take_bags,
    take_single,
    takes_singly,
    write_choices,
)
from thawline.learn.weight_files import Weights
from thawline.types import Contract, Hardware, Listener

if TYPE_CHECKING:
    from thawline.types import Content, Features, Inputs, IntArray

SHARD_BYTES = 64 * 2**20  # as float32, while it is gathered
SHARD_SECONDS = 20.0  # a kill loses at most this much work


@dataclasses.dataclass(frozen=True, slots=True)
class Extraction:
    """Features of items in their order; how many different ones were computed, or all found in the cache; and how many
    images went through the network for that, which are slices where items are bags."""

    features: Features
    n_computed: int
    n_cached: int
    n_images: int = 0


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

    ``digests`` are the content digests of the items, as `scan` finds them. Warns where the features of several items are all
    zero. Raises DataError where an item has become unreadable since, and OutputError where the cache cannot be written.
    """
    bags = take_bags(weights) if weights.thaw_line == LINE else weights
    filled = fill_space(contents, digests, bags, contract, hardware, listener, step, view)
    features = (
        join_members(filled.rows, digests, weights, contract) if bags is not weights else read_rows(filled, digests)
    )
    if len(features) > 1 and not features.any():
        listener.warn(
            f"the features of all {len(features)} items are zero: {weights.architecture.name} keeps nothing of images of "
            f"{contract.size_px} px{' and so few slices' if weights.n_images > 1 else ''}, and nothing can be learned from "
            "them; take a larger --size-px, more --slices, or another --backbone"
        )
    return Extraction(features, filled.n_computed, filled.n_cached, filled.n_images)


def read_rows(filled: Filled, digests: Sequence[str]) -> Features:
    """Return the rows of items, float32 (items, features)."""
    found = np.empty((len(digests), int(filled.rows.row_shape[0])), np.float32)
    filled.rows.read(digests, found)
    return found


def join_members(rows: Rows, digests: Sequence[str], weights: Weights, contract: Contract) -> Features:
    """Return the logits of an ensemble above `bags.LINE`, float32 (items, members x classes), from the rows of bags."""
    import torch

    weights = fit_weights(weights, contract.size_px, contract.reading)
    members: Any = load_backbone(weights).members
    width = int(rows.row_shape[0])
    found = []
    with torch.inference_mode():
        for digest in digests:  # one at a time, as bags may be large
            row = np.empty((1, width), np.float32)
            rows.read([digest], row)
            bag = torch.from_numpy(row).reshape(1, weights.n_images, -1)
            found.append(torch.cat([member(bag) for member in members], dim=1).numpy())
    return np.concatenate(found)


class Filled(NamedTuple):
    """Where rows are, and how many items, and images, were computed for them or found in the cache."""

    rows: Rows
    n_computed: int
    n_cached: int
    n_images: int


def fill_space(
    contents: Sequence[Content],
    digests: Sequence[str],
    weights: Weights,
    contract: Contract,
    hardware: Hardware,
    listener: Listener,
    step: str,
    view: View = CLEAN,
) -> Filled:
    """Compute what the cache does not hold of one view of all items, and return where it is. Raises as `extract`."""
    if takes_singly(weights, contract):
        return _fill_bags(contents, digests, weights, contract, hardware, listener, step, view)
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
    return Filled(space, len(missing), n_cached, len(missing) * max(1, contract.reading.n_slices))


def _fill_bags(
    contents: Sequence[Content],
    digests: Sequence[str],
    weights: Weights,
    contract: Contract,
    hardware: Hardware,
    listener: Listener,
    step: str,
    view: View,
) -> Filled:
    """Compute the slices of all items, each of which is a row; an item that the cache does not hold whole is opened."""
    reading, single = contract.reading, take_single(weights, contract)
    space, kept = open_space(*single, hardware, view), open_choices(reading)
    first = {digest: index for index, digest in reversed(list(enumerate(digests)))}
    choices = read_choices(kept, list(first), reading.n_slices)

    def count_missing(digest: str) -> int:
        shown = {*choices[digest].tolist()} if digest in choices else range(reading.n_slices)
        return sum(name_row(digest, index) not in space for index in shown)

    counts = {digest: count_missing(digest) for digest in first}
    missing = {digest: count for digest, count in counts.items() if count or digest not in choices}
    n_cached, keys, opened = len(first) - len(missing), list[str](), dict[str, list[int]]()
    listener.begin(step, sum(missing.values()))
    if missing:
        evict(keep=[space.folder, kept.folder])
        items = [(digest, contents[first[digest]]) for digest in missing]
        inputs = prepare_slices(
            items, contract, hardware.cores, opened, keys, space, lambda digest, image: augment(image, view, digest)
        )
        try:
            _compute(inputs, keys, space, *single, hardware, listener)
        finally:
            write_choices(kept, {digest: shown for digest, shown in opened.items() if digest not in choices})
    images = f"{len(keys)} images of {len(missing)} computed, {n_cached} from the cache"
    listener.end(images if missing else f"all {n_cached} from the cache")
    rows = BagRows(
        space, {**choices, **_as_arrays(opened)}, reading.n_slices, None if weights.taps else reading.pooling
    )
    return Filled(rows, len(missing), n_cached, len(keys))


def _as_arrays(opened: Mapping[str, Sequence[int]]) -> dict[str, IntArray]:
    return {digest: np.array(shown, np.int64) for digest, shown in opened.items()}


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


@contextmanager
def name_content(content: Content) -> Iterator[None]:
    """Say which item an ImageError is about, as a DataError."""
    try:
        yield
    except ImageError as error:
        paths = getattr(content, "paths", None)
        name = content if isinstance(content, Path) else paths[0] if paths else "an array"
        raise DataError(f"{name} cannot be prepared for the network: {error}") from error


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
        with name_content(content):
            data, size_px, reading = read_content(content), contract.size_px, contract.reading
            if reading.n_slices:
                bag = decode_bag(data, reduce_to_px=size_px, reading=reading)
                image = np.stack([prepare(each, contract) for each in bag])
            else:
                image = prepare(decode(data, reduce_to_px=size_px, reading=reading), contract)
            return change(index, image) if change else image

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


def prepare_slices(
    items: Sequence[tuple[str, Content]],
    contract: Contract,
    threads: int,
    opened: dict[str, list[int]],
    keys: list[str],
    known: Space | frozenset[str],
    change: Callable[[str, Inputs], Inputs],
) -> Generator[Inputs, None, None]:
    """Open items, digest and content, and prepare the slices that are shown, a bounded number ahead of the engine.

    Which are shown is written to ``opened`` by digest, the key of each that is yielded to ``keys``; those ``known`` already
    are passed over. ``change`` is given the digest and the prepared slice. Raises DataError.
    """
    reading = contract.reading

    def open_one(digest: str, content: Content) -> tuple[str, Content, Stack, list[int]]:
        with name_content(content):
            stack = open_stack(read_content(content), contract.size_px, reading)
            return digest, content, stack, choose_slices(stack, reading)

    def prepare_one(digest: str, content: Content, stack: Stack, index: int) -> Inputs:
        with name_content(content):
            return change(digest, prepare(check_finite(stack.show(reading.plane, index)), contract))

    waiting: deque[tuple[str, Future[Inputs]]] = deque()
    opening: deque[Future[tuple[str, Content, Stack, list[int]]]] = deque()
    rest = iter(items)

    def take() -> Inputs:
        key, future = waiting.popleft()
        image = future.result()
        keys.append(key)
        return image

    with ThreadPoolExecutor(threads) as pool:
        try:
            for _ in items:
                opening.extend(pool.submit(open_one, *each) for each in islice(rest, 1 + threads - len(opening)))
                digest, content, stack, shown = opening.popleft().result()
                opened[digest] = shown
                for index in dict.fromkeys(shown):
                    if (key := name_row(digest, index)) not in known:
                        waiting.append((key, pool.submit(prepare_one, digest, content, stack, index)))
                    while len(waiting) > 8 * threads + 64:
                        yield take()
            while waiting:
                yield take()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


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
