"""A run on volumes: one slice of each, and a model that takes the same slice of new ones."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

import thawline
from helpers import Notes, make_films
from thawline.types import Reading

pytestmark = pytest.mark.slow


def test_a_model_of_volumes_takes_the_slice_of_its_run(tmp_path: Path) -> None:
    drawn = make_films(tmp_path / "drawn", contrast=0.8)
    with (drawn / "manifest.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    noise = np.random.default_rng(0).integers(0, 255, (58, 58, 2)).astype(np.uint8)
    (tmp_path / "volumes").mkdir()
    with (tmp_path / "volumes" / "manifest.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, ["path", "label", "patient"])
        writer.writeheader()
        for number, row in enumerate(rows):
            with Image.open(drawn / row["path"]) as image:
                film = np.asarray(image.convert("L"))[::-1, ::-1].T  # the middle slice, between two of noise
            values = np.stack([noise[..., 0], film, noise[..., 1]], axis=-1)
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "volumes" / f"{number}.nii.gz")
            writer.writerow({"path": f"{number}.nii.gz", "label": row["label"], "patient": row["patient"]})
    options = {"strategy": "feature_extractor", "controls": "none"}
    with pytest.raises(thawline.errors.InputError, match="choose a slice with --frame middle"):
        thawline.run(tmp_path / "volumes", tmp_path / "refused", listener=Notes(), **options)
    finished = thawline.run(tmp_path / "volumes", tmp_path / "run", listener=Notes(), frame="middle", **options)
    assert {choice["name"]: choice["value"] for choice in finished.plan["choices"]}["plane"] == "axial"
    model = finished.load_model()
    assert model.contract.reading == Reading((), "middle")
    with (finished.folder / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        tests = [row for row in csv.DictReader(stream) if row["split"] == "test"]
    names = [name for name in tests[0] if name.startswith("p_")]
    expected = [[float(row[name]) for name in names] for row in tests]
    found = model.predict_proba([tmp_path / "volumes" / row["item"] for row in tests])
    np.testing.assert_allclose(found, expected, atol=1e-4)
