"""A copy of DICOM images without identities: what `thawline deidentify` does."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thawline.audit.marks import PLACES, find_lines
from thawline.audit.pictures import MIDDLE_SLICE
from thawline.data import dicom_index
from thawline.data.dataset import walk_files
from thawline.data.dicom import read_object
from thawline.data.dicom_values import guard
from thawline.data.identity import key_patient, read_secret
from thawline.data.manifest import LABEL_NAMES, Manifest, read_labels
from thawline.data.profile import METHOD, Changes, clean, key_uid
from thawline.data.quiet import silence
from thawline.data.readers import decode
from thawline.errors import DataError, ImageError, OutputError, bullets
from thawline.files import said_plainly, write_atomic, write_json
from thawline.types import Listener, SilentListener

if TYPE_CHECKING:
    from pydicom import Dataset

LOG, LABELS = "deidentified.json", LABEL_NAMES[0]
NO_IMAGE = "no DICOM image"


@dataclasses.dataclass(frozen=True)
class Copy:
    """One file that was written: its name in the new folder, what was done, and where text seems to be burned in."""

    file: str
    changes: Changes
    text: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data without any value of the original."""
        return {"file": self.file, **self.changes.to_json(), "text": list(self.text)}


@dataclasses.dataclass(frozen=True)
class Deidentified:
    """What came of it: the copies, and the files that were left out, with the reason."""

    out: Path
    copies: tuple[Copy, ...]
    left_out: tuple[tuple[Path, str], ...]
    n_labels: int

    def to_json(self) -> dict[str, Any]:
        """Return the log as plain JSON data: files that were left out are counted by reason, as their names may tell."""
        reasons = [reason for _, reason in self.left_out]
        return {
            "schema": 1,
            "method": METHOD,
            "files": [each.to_json() for each in self.copies],
            "left_out": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
            "n_labels": self.n_labels,
        }

    def __str__(self) -> str:
        """Return what a person reads: counts, and the files that were left out by name."""
        lines = [f"{len(self.copies)} files written to {self.out}, {self.n_labels} rows of {LABELS}"]
        if self.left_out:
            lines.append(f"{len(self.left_out)} files left out:")
            lines.append(bullets([f"{path}: {reason}" for path, reason in self.left_out]))
        return "\n".join(lines)


def deidentify(
    data: Path,
    out: Path,
    *,
    labels: Path | None = None,
    keep_text: bool = False,
    allow_outside: bool = False,
    listener: Listener | None = None,
) -> Deidentified:
    """Copy the DICOM images of a folder without identities, with a log, and their table of labels under the new keys.

    Files and folders of the copy are named by keys. Objects without images are left out, and so are images that seem to
    have text burned in, unless ``keep_text``. Two copies at one site agree, as keys come from its secret.
    Raises DataError where there is nothing to copy, OutputError where the copy cannot be written.
    """
    listener = listener or SilentListener()
    if not data.is_dir():
        raise DataError(f"{data}: expected a folder of DICOM files; found none there")
    with said_plainly(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise OutputError(f"{out}: expected a new or empty folder for the copy; choose another one")
    if out.resolve().is_relative_to(data.resolve()):
        raise OutputError(f"{out} lies in the data themselves; choose a folder outside {data}")
    files = list(walk_files(data, allow_outside=allow_outside))
    tables = {path for path in (labels, *(data / name for name in LABEL_NAMES)) if path is not None}
    table = _find_table(data, labels, files)
    secret = read_secret()
    copies: list[Copy] = []
    left_out: list[tuple[Path, str]] = []
    listener.begin("files", len(files))
    for path in files:
        try:
            copies.append(_copy(path, out, secret, keep_text=keep_text))
        except ImageError as error:
            if path not in tables:
                left_out.append((path, str(error)))
        listener.advance(1)
    listener.end(f"{len(copies)} written, {len(left_out)} left out")
    if not copies:
        lines = [f"{path}: {reason}" for path, reason in left_out]
        raise DataError(f"{data}: expected DICOM images, none of {len(files)} files could be copied:\n{bullets(lines)}")
    kept = set(files) - {path for path, _ in left_out}
    n_labels = _write_labels(table, [path for path in files if path in kept], out, secret) if table else 0
    done = Deidentified(out, tuple(copies), tuple(left_out), n_labels)
    write_json(out / LOG, done.to_json())
    return done


def _copy(path: Path, out: Path, secret: bytes, *, keep_text: bool) -> Copy:
    """Write one file without identities. Raises ImageError with the reason that leaves it out."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"the file cannot be read: {error.strerror}") from error
    if not dicom_index.is_dicom_file(path):
        raise ImageError(NO_IMAGE)
    with silence():
        dataset = read_object(data)
        places = _find_text(dataset, data, keep_text=keep_text)
        if places and not keep_text:
            raise ImageError(f"text seems to be burned in at {', '.join(places)}; look, then --keep-text")
        name = "/".join(_name_folders(dataset, secret)) + ".dcm"
        changes = guard("elements", lambda: clean(dataset, secret))
        content = guard("elements", lambda: _write(dataset))
    write_atomic(out / name, content)
    return Copy(name, changes, places)


def _find_text(dataset: Dataset, data: bytes, *, keep_text: bool) -> tuple[str, ...]:
    """Return where text seems to be burned into the image, or the middle one of several, or that the header says so.

    Raises ImageError for pixels that cannot be looked at, unless text is kept anyhow.
    """
    try:
        places = {line.place for line in find_lines(decode(data, reading=MIDDLE_SLICE))}
    except ImageError:
        if not keep_text:
            raise
        places = set()
    if places:
        return tuple(PLACES[place] for place in sorted(places))
    says = str(guard("header", lambda: dataset.get("BurnedInAnnotation", ""))).strip().upper()
    return ("a place that the header does not tell",) if says == "YES" else ()


def _name_folders(dataset: Dataset, secret: bytes) -> Iterator[str]:
    """Yield the names of the folders and the file of a copy: patient, study, series, instance."""
    keywords = ("PatientID", "IssuerOfPatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    found = guard("header", lambda: [str(dataset.get(keyword) or "").strip() for keyword in keywords])
    patient, issuer, study, series, instance = found
    if not instance:
        raise ImageError("the object has no SOP Instance UID, by which the copy would be named")
    yield key_patient(secret, patient, issuer) if patient else "no-patient"
    yield from (key_uid(secret, uid) or "none" for uid in (study, series, instance))


def _write(dataset: Dataset) -> bytes:
    """Return the file of a data set, with file meta information and a preamble of its own."""
    from pydicom.dataset import FileMetaDataset

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta, dataset.preamble = meta, bytes(128)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _find_table(data: Path, labels: Path | None, files: Sequence[Path]) -> Manifest | None:
    """Read the table of labels that is named, or lies in the folder; None where there is none."""
    found = (
        [labels] if labels is not None else [path for path in files if path in {data / name for name in LABEL_NAMES}]
    )
    return read_labels(found[0]) if found else None


def _write_labels(table: Manifest, files: Sequence[Path], out: Path, secret: bytes) -> int:
    """Write the table of labels of the copies: of its columns the one that joins, label and split; return its rows.

    Accession numbers are not kept, and become those of studies.
    """
    headers, _ = dicom_index.read_headers(files)
    joined, _ = dicom_index.join_labels(table, headers, "the table of labels")
    column = "study" if table.column == "accession" else table.column
    rows: dict[tuple[str, ...], None] = {}
    for header, row in joined:
        value = (
            key_patient(secret, header.patient, header.issuer)
            if column == "patient"
            else key_uid(secret, getattr(header, column))
        )
        rows[(value, row.label, *([row.split or ""] if table.split_given else []))] = None
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column, "label", *(["split"] if table.split_given else [])])
    writer.writerows(rows)
    write_atomic(out / LABELS, text.getvalue())
    return len(rows)
