"""Files of arrays: images and labels under their keys, read lazily where the format allows it, and nothing run."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

from thawline.data import arrays
from thawline.data.arrays import StackedImage, read_keys, read_stack
from thawline.data.dataset import load_dataset
from thawline.data.readers import decode, read_content
from thawline.errors import DataError, ImageError

N_ITEMS = 12
FORMATS = (".npz", ".h5", ".hdf5", ".zarr")


def make_images(shape: tuple[int, ...] = (N_ITEMS, 10, 9)) -> Any:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def make_arrays(**changes: Any) -> dict[str, Any]:
    found = {"images": make_images(), "labels": np.arange(N_ITEMS) % 2, **changes}
    return {name: array for name, array in found.items() if array is not None}


def save(path: Path, held: dict[str, Any]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **held)
    elif path.suffix == ".zarr":
        group = zarr.open_group(path, mode="w")
        for name, array in held.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # fixed-length text is no standard type of Zarr yet
                group.create_array(name, data=array)
    else:
        with h5py.File(path, "w") as file:
            for name, array in held.items():
                given = array.astype(h5py.string_dtype()) if array.dtype.kind == "U" else array
                file.create_dataset(name, data=given)
    return path


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("shape", [(N_ITEMS, 10, 9), (N_ITEMS, 10, 9, 3), (N_ITEMS, 8, 10, 9)])
def test_images_and_labels_come_back(tmp_path: Path, suffix: str, shape: tuple[int, ...]) -> None:
    held = make_arrays(images=make_images(shape), patient_id=np.arange(N_ITEMS) // 2)
    dataset = load_dataset(save(tmp_path / f"stack{suffix}", held))
    assert [item.label for item in dataset.items] == [str(label) for label in held["labels"]]
    assert [item.patient for item in dataset.items] == [str(n // 2) for n in range(N_ITEMS)]
    assert (dataset.classes, dataset.patients_given, dataset.split_given) == (("0", "1"), True, False)
    for content, image in zip(dataset.contents, held["images"], strict=True):
        np.testing.assert_array_equal(read_content(content), image)
        assert isinstance(content, np.ndarray if suffix == ".npz" else StackedImage)


@pytest.mark.parametrize("suffix", FORMATS)
def test_keys_say_which_array_is_what(tmp_path: Path, suffix: str) -> None:
    parts = np.array(["train"] * 8 + ["Val"] * 2 + ["TEST"] * 2)
    names = np.array(["benign", "malignant"] * 6)
    odd = {"a": make_images(), "b": make_images(), "c": names.reshape(N_ITEMS, 1), "d": np.arange(N_ITEMS), "e": parts}
    path = save(tmp_path / f"stack{suffix}", odd)
    dataset = load_dataset(path, keys="images=b,labels=c, patients=d,split=e")
    assert dataset.classes == ("benign", "malignant")
    assert dataset.count_splits() == {"train": 8, "val": 2, "test": 2}
    with pytest.raises(DataError, match=r"expected one array of images, found a, b among .*--keys"):
        load_dataset(path, keys="labels=c")
    with pytest.raises(DataError, match=r"has no array 'z'; found a \(12, 10, 9\)"):
        load_dataset(path, keys="images=z,labels=c")
    with pytest.raises(DataError, match="expected one array of labels, found none"):
        load_dataset(path, keys="images=a")
    with pytest.raises(DataError, match=r"d has shape|a has shape \(12, 10, 9\); expected one value an item"):
        load_dataset(path, keys="images=a,labels=a")


def test_arrays_of_hdf5_lie_in_groups(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "deep.h5", "w") as file:
        file["part/x"], file["part/y"] = make_images(), np.arange(N_ITEMS) % 3
    dataset = load_dataset(tmp_path / "deep.h5")
    assert dataset.classes == ("0", "1", "2")
    assert load_dataset(tmp_path / "deep.h5", keys="images=part/x,labels=part/y").items == dataset.items


def test_a_blank_patient_is_one_of_its_own(tmp_path: Path) -> None:
    patients = np.array(["p", ""] * 6)
    dataset = load_dataset(save(tmp_path / "stack.npz", make_arrays(patients=patients, labels=np.arange(12) // 3 % 2)))
    assert dataset.n_blank_patients == 6
    assert len({item.patient for item in dataset.items}) == 7


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_lesions_are_taken_by_their_usual_name_or_by_keys(tmp_path: Path, suffix: str) -> None:
    lesions = np.array([1.0, 1.0, np.nan] * 4)
    held = make_arrays(patients=np.arange(N_ITEMS) // 3, lesion_id=lesions)
    dataset = load_dataset(save(tmp_path / f"stack{suffix}", held))
    assert [item.lesion for item in dataset.items] == ["1", "1", ""] * 4
    masks = make_arrays(patients=np.arange(N_ITEMS) // 3, lesions=make_images()[:, :, :, np.newaxis] > 0, spots=lesions)
    dataset = load_dataset(save(tmp_path / f"masks{suffix}", masks), keys="images=images,lesions=spots")
    assert [item.lesion for item in dataset.items] == ["1", "1", ""] * 4
    path = save(tmp_path / f"nobody{suffix}", make_arrays(lesion_id=lesions))
    with pytest.raises(DataError, match="8 items name a lesion and no patient"):
        load_dataset(path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"labels": np.arange(5)}, "labels has 5 entries for 12 images"),
        ({"images": make_images((N_ITEMS, 10))}, r"images has shape \(12, 10\); expected \(items, height, width"),
        ({"labels": None}, "expected one array of labels, found none"),
        ({"images": None}, "expected one array of images, found none"),
        ({"labels": np.array([0.0, 1.0, np.nan] * 4)}, "item 2 has no label"),
        ({"split": np.array(["here"] * 12)}, "item 0 has the split 'here'; expected train"),
        ({"y": np.arange(N_ITEMS)}, "expected one array of labels, found labels, y"),
    ],
)
@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_what_is_refused(tmp_path: Path, suffix: str, changes: dict[str, Any], reason: str) -> None:
    path = save(tmp_path / f"stack{suffix}", make_arrays(**changes))
    with pytest.raises(DataError, match=reason):
        load_dataset(path)


@pytest.mark.parametrize("keys", ["", "images", "images=", "pictures=x", "images=a,images=b", "images=a;labels=b"])
def test_keys_of_another_form_are_refused(keys: str) -> None:
    if keys == "images=a;labels=b":
        assert read_keys(keys) == {"images": "a;labels=b"}
        return
    with pytest.raises(ValueError, match="expected some of images=NAME, labels=NAME, patients=NAME, split=NAME"):
        read_keys(keys)


def test_keys_belong_to_files_of_arrays(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--keys: names arrays in a file of \.npz"):
        load_dataset(tmp_path, keys="images=a")


@pytest.mark.parametrize("suffix", FORMATS)
def test_damage_is_an_error_with_a_reason(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="is damaged or no "):
        load_dataset(path)


def test_a_file_that_was_taken_away_is_an_image_error(tmp_path: Path) -> None:
    path = save(tmp_path / "stack.h5", make_arrays())
    content = read_stack(path, {}).contents[3]
    path.unlink()
    with pytest.raises(ImageError, match=r"image 3 of stack.h5 cannot be read: "):
        read_content(content)


def test_a_file_that_was_changed_is_read_anew(tmp_path: Path) -> None:
    path = save(tmp_path / "one.h5", make_arrays())
    (first, *_) = read_stack(path, {}).contents
    before = read_content(first)
    other = save(tmp_path / "two.h5", make_arrays(images=255 - make_images()))
    other.replace(path)
    np.testing.assert_array_equal(read_content(first), 255 - np.asarray(before))


# --- nothing is run, nothing else is read -----------------------------------------------------------------------------


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "stack.npz"
    np.savez(path, images=make_images(), labels=np.array([{}] * N_ITEMS, dtype=object))
    with pytest.raises(DataError, match="allow_pickle"):
        load_dataset(path)


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        ({"id": "pickle", "protocol": 5}, "codec 'pickle'|No Zarr data type found that matches"),
        ({"id": "packbits"}, "labels is stored with the codec 'packbits'; expected bytes, blosc"),
    ],
)
def test_a_codec_that_may_run_what_it_is_given_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: dict[str, Any], reason: str
) -> None:
    path = tmp_path / "evil.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.create_array("images", data=make_images())
    group.create_array("labels", data=np.arange(N_ITEMS) % 2)
    about = json.loads((path / "labels" / ".zarray").read_text())
    about["filters"] = [step]
    (path / "labels" / ".zarray").write_text(json.dumps(about))
    consolidated = path / ".zmetadata"
    consolidated.unlink(missing_ok=True)
    import pickle

    def forbid(*_: Any, **__: Any) -> None:
        raise AssertionError("a pickle was read")

    monkeypatch.setattr(pickle, "loads", forbid)
    with pytest.raises(DataError, match=reason):
        load_dataset(path)


def test_arrays_that_lie_in_other_files_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "other.h5", make_arrays())
    layout = h5py.VirtualLayout(shape=(N_ITEMS, 10, 9), dtype="u1")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "images", shape=(N_ITEMS, 10, 9))
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("images", layout)
        file["labels"] = np.arange(N_ITEMS) % 2
    with pytest.raises(DataError, match="images lies in other files; copy it into one"):
        load_dataset(tmp_path / "virtual.h5")
    with h5py.File(tmp_path / "linked.h5", "w") as file:
        file["images"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "images")
        file["labels"] = np.arange(N_ITEMS) % 2
    with pytest.raises(DataError, match="expected one array of images, found none"):
        load_dataset(tmp_path / "linked.h5")


def test_without_zarr_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "stack.zarr", make_arrays())
    arrays._open_version.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "zarr", None)
    with pytest.raises(DataError, match=r"pip install 'thawline\[zarr\]'"):
        load_dataset(path)


def test_a_volume_of_a_stack_is_read_as_one(tmp_path: Path) -> None:
    from thawline.types import Reading

    path = save(tmp_path / "stack.zarr", make_arrays(images=make_images((N_ITEMS, 8, 10, 9))))
    content = load_dataset(path).contents[5]
    shown = decode(read_content(content), reading=Reading((), "3"))
    np.testing.assert_array_equal(shown, make_images((N_ITEMS, 8, 10, 9))[5, 2])
