"""Data sets: every form of DATA, every refusal, and the real ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import make_dicom, save_dicom
from thawline.data.dataset import Dataset, check_dataset, from_arrays, list_files, load_dataset
from thawline.data.readers import describe, read_content
from thawline.errors import DataError
from thawline.types import Item

needs_links = pytest.mark.skipif(os.name == "nt", reason="links need special rights on Windows")


def write_image(file: Path, seed: int = 0) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 9), dtype=np.uint8)).save(file)
    return file


def make_folder(root: Path, names: Sequence[str] = ("no", "yes"), count: int = 6) -> Path:
    for number in range(count):
        for name in names:
            write_image(root / name / f"{name}{number}.png", number)
    return root


def make_manifest(root: Path, rows: Sequence[str] = (), header: str = "path,label,patient", count: int = 12) -> Path:
    lines = [f"im/{number}.png,{'ab'[number % 2]},{f'p{number % 5}' if number % 3 else ''}" for number in range(count)]
    for number in range(count):
        write_image(root / "im" / f"{number}.png", number)
    (root / "manifest.csv").write_text("\n".join([header, *(rows or lines)]) + "\n")
    return root


def make_npz(file: Path, **changes: np.ndarray | None) -> Path:
    generator = np.random.default_rng(0)
    arrays: dict[str, np.ndarray | None] = {}
    for split, count in (("train", 12), ("val", 4), ("test", 5)):
        arrays[f"{split}_images"] = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count)[:, None] % 2).astype(np.uint8)
    arrays.update(changes)
    np.savez(file, **{name: array for name, array in arrays.items() if array is not None})
    return file


def refuse(load: Callable[[], object], *parts: str) -> None:
    with pytest.raises(DataError) as caught:
        load()
    for part in parts:
        assert part in str(caught.value)


def test_folder_with_a_subfolder_a_class(tmp_path: Path) -> None:
    make_folder(tmp_path)
    write_image(tmp_path / "yes" / "deep" / "er" / "z.BMP")
    for junk in ("yes/.hidden.png", "yes/Thumbs.db", ".DS_Store", "__MACOSX/yes/a.png", ".git/x.png"):
        (tmp_path / junk).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / junk).write_bytes(b"junk")
    (tmp_path / "yes" / "notes.txt").write_text("n")
    (tmp_path / "no" / "scan.mat").write_text("n")
    write_image(tmp_path / "loose.png")
    dataset = load_dataset(tmp_path)
    assert dataset.kind == "folder"
    assert dataset.classes == ("no", "yes")
    assert dataset.count_items() == {"no": 6, "yes": 7}
    paths = [item.path for item in dataset.items]
    assert paths == sorted(paths)
    assert "yes/deep/er/z.BMP" in paths
    assert [Path(content) for content in dataset.contents] == [tmp_path / path for path in paths]
    np.testing.assert_array_equal(dataset.labels(), [path.startswith("yes") for path in paths])
    assert dataset.labels().dtype == np.int64
    assert len({item.patient for item in dataset.items}) == 13
    assert not dataset.patients_given
    assert dataset.notes == (
        "2 files that are no images were left out: .mat (1), .txt (1)",
        "1 images lie outside the class folders, so have no label, and were left out",
    )


def test_manifest_in_a_folder_or_by_name(tmp_path: Path) -> None:
    make_manifest(tmp_path)
    dataset = load_dataset(tmp_path)
    by_name = load_dataset(tmp_path / "manifest.csv")
    assert dataset == by_name
    assert dataset.kind == "manifest"
    assert dataset.root == tmp_path
    assert dataset.items[0] == Item("im/0.png", "a", "item:im/0.png", None, {})
    assert dataset.items[1] == Item("im/1.png", "b", "p1", None, {})
    assert [item.path for item in dataset.items][:3] == ["im/0.png", "im/1.png", "im/10.png"]
    assert dataset.patients_given
    assert dataset.n_blank_patients == 4
    assert dataset.count_patients() == {"a": 6, "b": 5}  # 1 and 11 are both of p1; 3 and 9 are their own


def test_items_of_a_manifest_name_their_lesion(tmp_path: Path) -> None:
    rows = [f"im/{n}.png,{'ab'[n % 2]},p{n % 4},{f'L{n % 8}' if n % 3 else ''}" for n in range(12)]
    dataset = load_dataset(make_manifest(tmp_path, rows, "path,label,patient,lesion"))
    assert dataset.items[1] == Item("im/1.png", "b", "p1", None, {}, "L1")
    assert [item.lesion for item in dataset.items if item.path in ("im/3.png", "im/11.png")] == ["L3", ""]


def test_a_lesion_of_nobody_is_refused(tmp_path: Path) -> None:
    rows = [f"im/{n}.png,{'ab'[n % 2]},{f'p{n % 4}' if n != 5 else ''},L{n % 8}" for n in range(12)]
    make_manifest(tmp_path, rows, "path,label,patient,lesion")
    refuse(
        lambda: load_dataset(tmp_path), "1 items name a lesion and no patient", "im/5.png", "call the column patient"
    )
    rows = [f"im/{n}.png,{'ab'[n % 2]},L{n % 8}" for n in range(12)]
    make_manifest(tmp_path, rows, "path,label,lesion")
    refuse(lambda: load_dataset(tmp_path), "12 items name a lesion and no patient")


def test_order_of_the_manifest_is_irrelevant(tmp_path: Path) -> None:
    make_manifest(tmp_path)
    first = load_dataset(tmp_path)
    header, *lines = (tmp_path / "manifest.csv").read_text().splitlines()
    (tmp_path / "manifest.csv").write_text("\n".join([header, *reversed(lines)]))
    assert load_dataset(tmp_path) == first


def test_manifest_with_split_and_metadata(tmp_path: Path) -> None:
    rows = [f"im/{number}.png,{number % 2},{('train', 'dev', 'test')[number % 3]},{number}" for number in range(12)]
    make_manifest(tmp_path, rows, "path,label,split,age")
    dataset = load_dataset(tmp_path)
    assert dataset.split_given
    assert dataset.count_splits() == {"train": 4, "val": 4, "test": 4}
    assert dataset.n_blank_patients == 0
    assert dataset.items[-1] == Item("im/9.png", "1", "item:im/9.png", "train", {"age": "9"})


def test_classes_that_are_numbers_are_sorted_by_value(tmp_path: Path) -> None:
    rows = [f"im/{number}.png,{(10, 9, 2)[number % 3]}" for number in range(12)]
    assert load_dataset(make_manifest(tmp_path, rows, "path,label")).classes == ("2", "9", "10")


def test_doubtful_names_are_noted(tmp_path: Path) -> None:
    rows = [
        f"im/{number}.png,{('Yes', 'yes', 'no')[number % 3]},{'NA' if number < 4 else number}" for number in range(12)
    ]
    dataset = load_dataset(make_manifest(tmp_path, rows))
    assert dataset.classes == ("Yes", "no", "yes")
    assert "classes 'Yes', 'yes' differ in upper and lower case only" in dataset.notes[0]
    assert "4 items name the patient 'NA' and count as one patient" in dataset.notes[1]
    rows = [f"im/{n}.png,{'ab'[n % 2]},p{n % 4},{'unknown' if n < 3 else n}" for n in range(12)]
    (note,) = load_dataset(make_manifest(tmp_path, rows, "path,label,patient,lesion")).notes
    assert "3 items name the lesion 'unknown', one lesion of each patient; leave it blank" in note


@needs_links
def test_backslashes_separate_folders_where_needed(tmp_path: Path) -> None:
    rows = [rf"im\{number}.png,{'ab'[number % 2]},p{number}" for number in range(12)]
    make_manifest(tmp_path, rows)
    write_image(tmp_path / r"im\3.png", 50)
    dataset = load_dataset(tmp_path)
    paths = [item.path for item in dataset.items]
    assert paths.count("im/5.png") == 1
    assert paths.count(r"im\3.png") == 1  # a file of that very name comes first


def test_manifest_paths_that_leave_the_folder(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    beside, absolute = write_image(tmp_path / "beside.png", 70), write_image(tmp_path / "far" / "x.png", 71)
    rows = [f"im/{number}.png,{'ab'[number % 2]}" for number in range(12)]
    make_manifest(inner, [*rows, "../beside.png,a", f"{absolute},b", "im/../im/./3b.png,a"], "path,label")
    write_image(inner / "im" / "3b.png", 72)
    refuse(
        lambda: load_dataset(inner),
        "2 paths are absolute or lead out",
        "row 14: ../beside.png",
        "row 15",
        "--allow-outside",
    )
    dataset = load_dataset(inner, allow_outside=True)
    contents = dict(zip((item.path for item in dataset.items), dataset.contents, strict=True))
    assert contents["../beside.png"] == beside
    assert contents[absolute.as_posix()] == absolute
    assert contents["im/3b.png"] == inner / "im" / "3b.png"


@needs_links
def test_manifest_links_that_leave_the_folder(tmp_path: Path) -> None:
    outside = write_image(tmp_path / "outside" / "x.png", 70)
    inner = make_manifest(tmp_path / "inner")
    (inner / "im" / "0.png").unlink()
    (inner / "im" / "0.png").symlink_to(outside)
    refuse(lambda: load_dataset(inner), "row 2: im/0.png")
    assert len(load_dataset(inner, allow_outside=True).items) == 12


def test_missing_files_are_all_listed(tmp_path: Path) -> None:
    make_manifest(tmp_path, count=30)
    for number in range(2, 27):
        (tmp_path / "im" / f"{number}.png").unlink()
    refuse(
        lambda: load_dataset(tmp_path),
        "25 of 30 files do not exist",
        "row 4: im/2.png",
        "row 23: im/21.png",
        "… and 5 more",
    )


def test_two_manifests_could_disagree(tmp_path: Path) -> None:
    make_manifest(tmp_path)
    (tmp_path / "manifest.parquet").write_bytes(b"")
    refuse(lambda: load_dataset(tmp_path), "both manifest.csv and manifest.parquet")


def test_medmnist(tmp_path: Path) -> None:
    file = make_npz(tmp_path / "small.npz")
    dataset = load_dataset(file)
    assert dataset.kind == "npz"
    assert dataset.classes == ("0", "1")
    assert dataset.count_splits() == {"train": 12, "val": 4, "test": 5}
    assert dataset.split_given
    assert not dataset.patients_given
    assert dataset.items[-1] == Item("val/00003", "1", "item:val/00003", "val")
    with np.load(file) as arrays:
        np.testing.assert_array_equal(dataset.contents[-1], arrays["val_images"][3])
        np.testing.assert_array_equal(dataset.contents[0], arrays["test_images"][0])
    flat = make_npz(
        tmp_path / "flat.npz", train_labels=np.arange(12) % 2, val_images=np.zeros((4, 28, 28, 3), np.uint8)
    )
    assert load_dataset(flat).items == dataset.items


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"val_images": None, "val_labels": None}, ["lacks val_images, val_labels; found"]),
        ({"train_labels": np.zeros((12, 14), np.uint8)}, ["labels of different shapes in its parts: train (12, 14)"]),
        ({"train_images": np.zeros((12, 28, 28, 28, 3), np.uint8)}, ["of shape (12, 28, 28, 28, 3); expected uint8"]),
        ({"train_images": np.zeros((12, 28, 28), np.float32)}, ["float32 of shape (12, 28, 28); expected uint8"]),
        ({"train_labels": np.zeros((11, 1), np.uint8)}, ["(11, 1) for 12 images"]),
        ({"train_labels": np.array([{}] * 12, dtype=object)}, ["no .npz of plain arrays", "allow_pickle"]),
    ],
)
def test_npz_files_that_are_refused(tmp_path: Path, changes: dict[str, np.ndarray | None], parts: list[str]) -> None:
    file = make_npz(tmp_path / "odd.npz", **changes)
    refuse(lambda: load_dataset(file), "odd.npz", *parts)


def test_damaged_npz(tmp_path: Path) -> None:
    whole = make_npz(tmp_path / "whole.npz").read_bytes()
    file = tmp_path / "odd.npz"
    for data in (b"", b"text", whole[:3000], whole[:500] + b"\xff" * 40 + whole[540:], b"PK\x03\x04"):
        file.write_bytes(data)
        refuse(lambda: load_dataset(file), "odd.npz is damaged or no .npz")
    with file.open("wb") as stream:
        np.save(stream, np.zeros(3))
    refuse(lambda: load_dataset(file), "odd.npz is damaged or no .npz")


def test_names_that_do_not_exist(tmp_path: Path) -> None:
    make_folder(tmp_path / "breast-us")
    refuse(lambda: load_dataset(tmp_path / "brest-us"), "there is no 'brest-us'", "did you mean 'breast-us'?")
    refuse(lambda: load_dataset(tmp_path / "brest-us" / "deep"), "did you mean 'breast-us'?")
    refuse(lambda: load_dataset(tmp_path / "zzz"), "check the path")
    other = tmp_path / "table.xlsx"
    other.write_text("x")
    refuse(lambda: load_dataset(other), "table.xlsx is no data set", ".csv", ".npz")


def test_arrays_in_files_of_their_own_are_items(tmp_path: Path) -> None:
    for number in range(12):
        folder = tmp_path / "data" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{number}.npy", np.random.default_rng(number).integers(0, 9, (9, 9)))
    names = [item.path for item in load_dataset(tmp_path / "data").items]
    assert len(names) == 12
    (tmp_path / "data" / "manifest.csv").write_text("path,label\n" + "".join(f"{name},{name[0]}\n" for name in names))
    dataset = load_dataset(tmp_path / "data" / "manifest.csv")
    assert describe(read_content(dataset.contents[0])).format == "NumPy"
    assert list_files([tmp_path / "data"]) == [tmp_path / "data" / name for name in names]
    refuse(lambda: load_dataset(tmp_path / "data" / names[0]), "0.npy is one item, which lies in a class folder")


def test_folders_without_classes(tmp_path: Path) -> None:
    refuse(lambda: load_dataset(tmp_path), "holds no images in class folders; expected .png")
    write_image(tmp_path / "a.png")
    refuse(lambda: load_dataset(tmp_path), "holds 1 images without a label", "manifest.csv")
    (tmp_path / "a.png").unlink()
    for number in range(3):
        file = tmp_path / "series" / f"{number}.mat"
        file.parent.mkdir(exist_ok=True)
        file.write_text("x")
    refuse(lambda: load_dataset(tmp_path), "no images", "found instead: .mat (3)")


def test_empty_class(tmp_path: Path) -> None:
    make_folder(tmp_path)
    (tmp_path / "maybe" / "sub").mkdir(parents=True)
    (tmp_path / "maybe" / "sub" / "x.tar").write_text("x")
    refuse(lambda: load_dataset(tmp_path), "1 class folders", "maybe", "found instead: .tar (1)")


def test_folders_named_after_splits(tmp_path: Path) -> None:
    for split in ("train", "Test"):
        make_folder(tmp_path / split)
    refuse(lambda: load_dataset(tmp_path), "named after splits (Test, train), not classes", "path,label,split")


def test_wrapped_class_folders(tmp_path: Path) -> None:
    make_folder(tmp_path / "images")
    refuse(lambda: load_dataset(tmp_path), "one class folder only, images", f"give {tmp_path / 'images'}")


def test_too_little(tmp_path: Path) -> None:
    refuse(
        lambda: load_dataset(make_folder(tmp_path / "one", ["yes"], 20)),
        "only one class, yes (20)",
        "at least 2 classes",
    )
    three = make_folder(tmp_path / "three", ["a", "b", "c"], 1)
    refuse(
        lambda: load_dataset(three), "3 images in all: a (1), b (1), c (1)", "10 images in all and 2 patients a class"
    )
    rows = [f"im/{number}.png,{'ab'[number % 2]},{number if number % 2 else 'same'}" for number in range(12)]
    refuse(
        lambda: load_dataset(make_manifest(tmp_path / "m", rows)), "fewer than 2 patients", "a: 6 images of 1 patient"
    )
    check_dataset(from_arrays(np.zeros((10, 9, 9)), [0, 1] * 5))
    refuse(lambda: check_dataset(from_arrays([], [])), "only one class, with no item")


@needs_links
def test_links_in_folders(tmp_path: Path) -> None:
    root, store = make_folder(tmp_path / "root"), make_folder(tmp_path / "store", ["x"])
    (root / "yes" / "loop").symlink_to(root / "yes")
    assert len(load_dataset(root).items) == 12
    (root / "yes" / "more").symlink_to(store / "x")
    refuse(lambda: load_dataset(root), "more is a link that leads out of the data", str(store / "x"), "--allow-outside")
    dataset = load_dataset(root, allow_outside=True)
    assert dataset.count_items() == {"no": 6, "yes": 12}
    assert "yes/more/x0.png" in {item.path for item in dataset.items}
    (root / "yes" / "more").unlink()
    (root / "no" / "one.png").symlink_to(store / "x" / "x0.png")
    refuse(lambda: load_dataset(root), "one.png is a link")
    (root / "no" / "one.png").unlink()
    (root / "third").symlink_to(store / "x")
    refuse(lambda: load_dataset(root), "third is a link")
    by_link = tmp_path / "link"
    (root / "third").unlink()
    by_link.symlink_to(root)
    assert len(load_dataset(by_link).items) == 12  # the data themselves may be given by a link


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "fsencode"), reason="names are Unicode on Windows")
def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    root = make_folder(tmp_path)
    image = (root / "yes" / "yes0.png").read_bytes()
    try:
        Path(os.fsdecode(os.fsencode(root / "yes") + b"/n\xf6.png")).write_bytes(image)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    refuse(lambda: load_dataset(root), "1 file names are not UTF-8", r"n\udcf6.png")


def test_arrays(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    dataset = from_arrays(images, np.arange(12) % 3, groups=[1, 1, None, *range(9)])
    assert dataset.classes == ("0", "1", "2")
    assert [item.path for item in dataset.items[:2]] == ["00000", "00001"]
    assert [item.patient for item in dataset.items[:4]] == ["1", "1", "item:00002", "0"]
    assert dataset.n_blank_patients == 1
    np.testing.assert_array_equal(dataset.labels(), np.arange(12) % 3)
    np.testing.assert_array_equal(np.stack(dataset.contents), images)
    file = write_image(tmp_path / "a.png")
    by_path: Dataset = from_arrays([str(file), file], [1.0, 2.5])
    assert by_path.contents == [file, file]
    assert by_path.classes == ("1", "2.5")
    assert not by_path.patients_given


def test_arrays_that_disagree() -> None:
    images = np.zeros((4, 9, 9))
    refuse(lambda: from_arrays(images, [0, 1]), "4 images but 2 labels")
    refuse(lambda: from_arrays(images, [0, 1, 0, 1], groups=[1]), "4 images but 1 groups")
    refuse(lambda: from_arrays(np.zeros((4, 9)), [0, 1, 0, 1]), "images of shape (4, 9)")
    refuse(lambda: from_arrays(images, [0, 1, None, np.nan]), "no label for 2 images, at positions 2, 3")


def test_files_for_prediction(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data", count=2)
    (root / "no" / "notes.txt").write_text("x")
    (root / "list.csv").write_text("path\nyes/yes1.png\nno/no0.png\n")
    single = root / "yes" / "yes0.png"
    assert list_files([single, root]) == [single, *sorted(root.rglob("no*.png")), root / "yes" / "yes1.png"]
    assert list_files([root / "list.csv"]) == [root / "yes" / "yes1.png", root / "no" / "no0.png"]
    refuse(lambda: list_files([root / "no" / "notes.txt"]), "notes.txt is no image; expected .png")
    refuse(lambda: list_files([root / "no" / "no7.png"]), "did you mean")
    (tmp_path / "empty").mkdir()
    refuse(lambda: list_files([tmp_path / "empty"]), "no images in")
    refuse(lambda: list_files([]), "no images in an empty list")
    (root / "no" / "list.csv").write_text("path\n../yes/yes1.png\n")
    refuse(lambda: list_files([root / "no" / "list.csv"]), "row 2: ../yes/yes1.png")
    assert list_files([root / "no" / "list.csv"], allow_outside=True) == [root / "yes" / "yes1.png"]


@pytest.mark.realdata
def test_real_covid_ct(shared_data: Path) -> None:
    dataset = load_dataset(shared_data / "covid-ct")
    assert len(dataset.items) == 746
    assert len({item.patient for item in dataset.items}) == 384
    assert dataset.count_splits() == {"train": 425, "val": 118, "test": 203}
    assert dataset.classes == ("COVID", "NonCOVID")
    assert describe(read_content(dataset.contents[0])).channels == 1


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "n_items", "n_classes"), [("chest-xray3", 1124, 3), ("breast-us", 780, 3), ("brain-mri", 253, 2)]
)
def test_real_folders(shared_data: Path, name: str, n_items: int, n_classes: int) -> None:
    dataset = load_dataset(shared_data / name)
    assert len(dataset.items) == n_items
    assert len(dataset.classes) == n_classes
    assert not dataset.split_given
    assert dataset.n_blank_patients == (124 if name == "chest-xray3" else 0)


@pytest.mark.realdata
def test_real_medmnist(shared_data: Path) -> None:
    dataset = load_dataset(shared_data / "npz" / "pneumoniamnist.npz")
    assert dataset.count_splits() == {"train": 4708, "val": 524, "test": 624}
    volumes = load_dataset(shared_data / "npz" / "adrenalmnist3d_64.npz")
    assert volumes.count_splits() == {"train": 1188, "val": 98, "test": 298}
    assert {content.shape for content in volumes.contents} == {(64, 64, 64)}


@pytest.mark.realdata
def test_real_folders_of_other_kinds_are_refused(shared_data: Path) -> None:
    refuse(
        lambda: load_dataset(shared_data / "dicom"),
        "3 classes have fewer than 2 patients",
        "t2: 22 images of 1 patient",
    )
    refuse(lambda: load_dataset(shared_data / "nifti"), "holds 40 images without a label")


# --- DICOM files ------------------------------------------------------------------------------------------------------


def make_dicom_folder(root: Path, extension: str = ".dcm") -> Path:
    """Six patients of two images, one in each class; the last item names no patient."""
    for number in range(6):
        for label in ("no", "yes"):
            tags = {"PatientID": "" if (number, label) == (5, "yes") else f"MUSTERMANN{number}"}
            file = root / label / f"{number}{extension}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(save_dicom(make_dicom(**tags)))
    return root


def test_patients_of_dicom_files_come_from_their_headers_under_a_key(tmp_path: Path) -> None:
    dataset = load_dataset(make_dicom_folder(tmp_path))
    patients = {item.path: item.patient for item in dataset.items}
    assert (dataset.patients_given, dataset.n_blank_patients) == (True, 1)
    assert patients["yes/5.dcm"] == "item:yes/5.dcm"
    for number in range(5):
        assert patients[f"no/{number}.dcm"] == patients[f"yes/{number}.dcm"]
    assert len(set(patients.values())) == 7
    assert "MUSTERMANN" not in str(patients)
    assert {item.path: item.patient for item in load_dataset(tmp_path).items} == patients


def test_a_patient_of_the_manifest_goes_before_that_of_the_header(tmp_path: Path) -> None:
    make_dicom_folder(tmp_path, extension="")
    rows = [f"{label}/{number},{label},{'A' if number == 0 else ''}" for number in range(6) for label in ("no", "yes")]
    (tmp_path / "manifest.csv").write_text("\n".join(["path,label,patient", *rows]) + "\n")
    dataset = load_dataset(tmp_path)
    patients = [item.patient for item in dataset.items]
    assert patients.count("A") == 2
    assert len(set(patients)) == 7
    assert (dataset.patients_given, dataset.n_blank_patients) == (True, 1)


def test_images_of_other_kinds_make_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAWLINE_DATA", str(tmp_path / "site"))
    load_dataset(make_folder(tmp_path / "data"))
    assert not (tmp_path / "site").exists()
