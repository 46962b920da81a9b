"""Manifests: what is accepted, and every refusal with its rows."""

from __future__ import annotations

import string
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thawline.data.manifest import Manifest, read_manifest
from thawline.errors import DataError


def write(folder: Path, content: str | bytes, name: str = "manifest.csv") -> Path:
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def read(folder: Path, content: str | bytes) -> Manifest:
    return read_manifest(write(folder, content))


def refuse(folder: Path, content: str | bytes, *parts: str) -> None:
    file = write(folder, content)
    with pytest.raises(DataError) as caught:
        read_manifest(file)
    for part in ("manifest.csv", *parts):
        assert part in str(caught.value)


def test_all_columns(tmp_path: Path) -> None:
    manifest = read(tmp_path, "path,label,patient,split,age\na.png,yes,001,train,41\nb.png,no,P 2,test,\n")
    first, second = manifest.rows
    assert (first.number, first.path, first.label, first.patient, first.split) == (2, "a.png", "yes", "001", "train")
    assert first.metadata == {"age": "41"}
    assert (second.number, second.patient, second.split, second.metadata) == (3, "P 2", "test", {"age": ""})
    assert manifest.patients_given
    assert manifest.split_given


def test_lesions_are_no_metadata(tmp_path: Path) -> None:
    rows = read(tmp_path, "path,label,patient,Lesion,age\na.png,yes,1, L 2 ,41\nb.png,no,1,,41\n").rows
    assert [row.lesion for row in rows] == ["L 2", ""]
    assert rows[0].metadata == {"age": "41"}
    assert [row.lesion for row in read(tmp_path, "path,label\na.png,yes\n").rows] == [""]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_separators_marks_and_line_ends(tmp_path: Path, separator: str, mark: bytes, end: str) -> None:
    lines = [
        ["Path ", " LABEL", "note"],
        ["x/ä b.png", " yes ", '"one, two; three"'],
        ["c.png", "no", ""],
        ["", "", ""],
    ]
    manifest = read(tmp_path, mark + (end.join(separator.join(line) for line in lines) + end).encode())
    assert [(row.path, row.label) for row in manifest.rows] == [("x/ä b.png", "yes"), ("c.png", "no")]
    assert manifest.rows[0].metadata == {"note": "one, two; three"}


def test_separator_that_occurs_inside_names_is_not_taken(tmp_path: Path) -> None:
    manifest = read(tmp_path, 'path,label,"a;b;c;d"\nx.png,1,2\n')
    assert manifest.rows[0].metadata == {"a;b;c;d": "2"}


def test_blank_columns_count_as_absent(tmp_path: Path) -> None:
    manifest = read(tmp_path, "path,label,patient,split\na,1,,\nb,2, ,\n")
    assert not manifest.patients_given
    assert not manifest.split_given
    assert {row.split for row in manifest.rows} == {None}


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("TRAIN", "train"),
        ("Training", "train"),
        ("valid", "val"),
        ("validation", "val"),
        ("dev", "val"),
        ("val", "val"),
        ("testing", "test"),
        (" test ", "test"),
    ],
)
def test_split_synonyms(tmp_path: Path, given: str, meant: str) -> None:
    assert read(tmp_path, f"path,label,split\na,1,{given}\n").rows[0].split == meant


def test_parquet_equals_csv(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "Path": ["a.png", "b.png", "c.png"],
            "label": [1.0, 0.0, 1.0],
            "patient": ["001", None, "7"],
            "split": ["training", "dev", "test"],
            "age": [41, None, 30.5],
            "seen": [True, False, True],
        },
        index=[5, 6, 9],
    )
    frame.to_parquet(tmp_path / "manifest.parquet")
    head = "path,label,patient,split,age,seen\n"
    text = head + "a.png,1,001,train,41,True\nb.png,0.0,,val,,False\nc.png,1.0,7,test,30.5,True\n"
    from_csv, from_parquet = read(tmp_path, text), read_manifest(tmp_path / "manifest.parquet")
    assert [row.number for row in from_parquet.rows] == [1, 2, 3]
    columns = ("path", "label", "patient", "split", "metadata")
    for one, other in zip(from_csv.rows, from_parquet.rows, strict=True):
        assert [getattr(one, name) for name in columns] == [getattr(other, name) for name in columns]


def test_parquet_of_whole_numbers(tmp_path: Path) -> None:
    file = tmp_path / "manifest.parquet"
    pd.DataFrame({"path": ["a", "b"], "label": [1, 2], "patient": [12.0, None]}).to_parquet(file)
    assert [(row.label, row.patient) for row in read_manifest(file).rows] == [("1", "12"), ("2", "")]


def test_damaged_parquet(tmp_path: Path) -> None:
    file = write(tmp_path, b"PAR1 nothing of the kind", "manifest.parquet")
    with pytest.raises(DataError, match=r"manifest.parquet cannot be read as Parquet"):
        read_manifest(file)


def test_labels_are_not_needed_for_prediction(tmp_path: Path) -> None:
    file = write(tmp_path, "path,split\na.png,odd\n")
    assert [row.path for row in read_manifest(file, need_label=False).rows] == ["a.png"]


def test_encodings_are_refused_not_guessed(tmp_path: Path) -> None:
    latin = "path,label\na.png,yes\nb.png,nö\n".encode("latin-1")
    refuse(tmp_path, latin, "not UTF-8: byte 0xf6 at offset 28, line 3", "save it as CSV UTF-8")
    refuse(tmp_path, b"\xef\xbb\xbf" + latin, "byte 0xf6 at offset 31, line 3")
    refuse(tmp_path, "path,label\na,1\n".encode("utf-16"), "UTF-16", "save it as CSV UTF-8")


def test_empty_files(tmp_path: Path) -> None:
    refuse(tmp_path, b"", "is empty")
    refuse(tmp_path, b"\n \n", "is empty")
    refuse(tmp_path, "path,label\n", "no rows")
    refuse(tmp_path, "\npath,label\na,1\n", "starts with a blank line")
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_manifest(tmp_path / "absent.csv")


def test_columns_missing_or_doubled(tmp_path: Path) -> None:
    refuse(tmp_path, "file,label\na,1\n", "no column path; found 'file', 'label'")
    refuse(tmp_path, "file;class\na;1\n", "no column path and label; found")
    refuse(tmp_path, "path,label,Label \na,1,2\n", "the column label more than once")


def test_values_missing(tmp_path: Path) -> None:
    refuse(tmp_path, "path,label\na,1\n,2\nb,1\n ,1\n", "no path in rows 3, 5")
    refuse(tmp_path, "path,label\na,1\nb,\nc\n", "no label in rows 3, 4")
    refuse(tmp_path, "path,label\n" + "".join(f"{n},\n" for n in range(30)), "rows 2, 3, 4", "11 and 20 more")


def test_rows_too_long_and_broken_quotes(tmp_path: Path) -> None:
    refuse(tmp_path, "path,label\na,1\nb,2,3\n", "row 3 with more than the 2 fields", "comma need double quotes")
    refuse(tmp_path, 'path,label\n"a,1\nb,2\n', "check the quotes")
    refuse(tmp_path, "path,label\n" + "a" * 200_000 + ",1\n", "line 2", "field larger than")


def test_splits_unknown_or_partly_blank(tmp_path: Path) -> None:
    refuse(tmp_path, "path,label,split\na,1,train\nb,1,\n", "no split in row 3", "all rows or none")
    refuse(tmp_path, "path,label,split\na,1,train\nb,1,fold1\n", "split 'fold1' in row 3; expected train, val, test")


def test_paths_in_several_rows(tmp_path: Path) -> None:
    refuse(tmp_path, "path,label\na,1\nb,2\na,1\n", "a: rows 2, 4", "remove one")
    refuse(tmp_path, "path,label\na/b,1\na\\b,1\na/./c/../b,1\n", "a/b: rows 2, 3, 4")
    refuse(tmp_path, "path,label\na,1\nb,2\na,2\n", "1 paths have two labels", "a: 1 (row 2), 2 (row 4)")


CELLS = st.text(alphabet=string.ascii_letters + string.digits + " ,;\"'\n\täé漢", max_size=8)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=6), st.sampled_from([",", ";", "\t"]))
def test_what_pandas_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str, str]], separator: str
) -> None:
    file = tmp_path_factory.mktemp("csv") / "manifest.csv"
    rows = [(f"{number}.png", f"c{label}", patient, note) for number, (label, patient, note) in enumerate(cells)]
    pd.DataFrame(rows, columns=["path", "label", "patient", "note"]).to_csv(file, sep=separator, index=False)
    found = [(row.path, row.label, row.patient, row.metadata["note"]) for row in read_manifest(file).rows]
    assert found == [tuple(cell.strip() for cell in row) for row in rows]


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=60))
def test_any_bytes_give_rows_or_a_reason(tmp_path_factory: pytest.TempPathFactory, tail: bytes) -> None:
    file = write(tmp_path_factory.getbasetemp(), b"path,label\n" + tail)
    try:
        manifest = read_manifest(file)
    except DataError:
        return
    assert all(row.path and row.label for row in manifest.rows)
