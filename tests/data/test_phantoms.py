from __future__ import annotations

import csv
import struct
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from thawline.data import phantoms
from thawline.data.phantoms import SCANNERS, PhantomOptions, draw_anatomy, draw_film, make_phantoms
from thawline.errors import OptionError, OutputError

TINY = {"n_patients": 12, "views": (1, 2), "size_px": 32}


def make(folder, **options):
    """Return the manifest's rows and the decoded pixels by path."""
    manifest = make_phantoms(folder, PhantomOptions(**{**TINY, **options}))
    with manifest.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return rows, {row["path"]: np.asarray(Image.open(folder / row["path"])) for row in rows}


def draw(anatomy_seed, view_seed, scanner=SCANNERS[0], shape=(200, 180), **options):
    anatomy = draw_anatomy(np.random.default_rng(anatomy_seed))
    return draw_film(anatomy, scanner, shape, np.random.default_rng(view_seed), **options)


def gather(rows, key, value):
    found = defaultdict(set)
    for row in rows:
        found[row[key]].add(row[value])
    return found


# --- files and manifest ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "dtype", "white"), [(8, np.uint8, 255), (16, np.int32, 4095)])
def test_files_are_grey_pngs_of_the_stated_depth(tmp_path, bits, dtype, white):
    rows, films = make(tmp_path, bits=bits)
    for row in rows:
        head = (tmp_path / row["path"]).read_bytes()[:26]
        width, height, depth, colour = struct.unpack(">IIBB", head[16:26])  # the IHDR chunk
        assert head[:8] == b"\x89PNG\r\n\x1a\n"
        assert (depth, colour, width) == (bits, 0, 32)
        assert films[row["path"]].shape == (height, width)
    highest = max(int(film.max()) for film in films.values())
    assert 0.9 * white < highest <= white


def test_manifest_names_every_file_once(tmp_path):
    rows, _ = make(tmp_path, duplicates=2, contradicting=1)
    on_disk = sorted(file.relative_to(tmp_path).as_posix() for file in (tmp_path / "images").iterdir())
    assert sorted(row["path"] for row in rows) == on_disk
    assert list(rows[0]) == ["path", "label", "patient", "scanner", "view"]
    assert rows[0]["path"] == "images/p0001_v1.png"
    assert all(row["path"] == f"images/{row['patient']}_v{row['view']}.png" for row in rows)


def test_columns_follow_the_options(tmp_path):
    rows, _ = make(tmp_path, patients=False, split=True)
    assert list(rows[0]) == ["path", "label", "scanner", "view", "split"]


def test_same_options_make_the_same_bytes_and_another_seed_others(tmp_path):
    options = {"duplicates": 1, "label_noise": 0.2, "shortcut": 0.5, "split": True, "leak": 1}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make(tmp_path / name, seed=seed, **options)
    a, b, c = (
        {file.relative_to(tmp_path / name).as_posix(): file.read_bytes() for file in (tmp_path / name).rglob("*.*")}
        for name in "abc"
    )
    assert a == b
    shared = {name for name in a if name in c and name.endswith(".png")}
    assert shared
    assert not any(a[name] == c[name] for name in shared)


def test_labels_views_and_heights_are_as_asked(tmp_path):
    rows, films = make(tmp_path, n_patients=40, prevalence=0.3, views=(1, 3))
    labels = gather(rows, "patient", "label")
    assert all(len(found) == 1 for found in labels.values())
    assert Counter(next(iter(found)) for found in labels.values()) == {"lesion": 12, "healthy": 28}
    assert set(Counter(row["patient"] for row in rows).values()) == {1, 2, 3}
    heights = gather([{**row, "height": films[row["path"]].shape[0]} for row in rows], "patient", "height")
    assert all(len(found) == 1 for found in heights.values())
    assert len(set.union(*heights.values())) > 3


def test_an_existing_manifest_is_kept(tmp_path):
    (tmp_path / "manifest.csv").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match=r"found .*manifest\.csv"):
        make(tmp_path)
    assert (tmp_path / "manifest.csv").read_text(encoding="utf-8") == "mine"


def test_a_file_in_place_of_the_folder_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(OutputError, match="cannot be written"):
        make(tmp_path / "file")


# --- films ----------------------------------------------------------------------------------------------------------


def test_without_contrast_the_disease_leaves_no_trace(tmp_path):
    few, films_few = make(tmp_path / "few", contrast=0, prevalence=0.2, scanners=1)
    many, films_many = make(tmp_path / "many", contrast=0, prevalence=0.8, scanners=1)
    assert sum(a["label"] != b["label"] for a, b in zip(few, many, strict=True)) > len(few) / 3
    assert all(np.array_equal(films_few[path], films_many[path]) for path in films_few)


def test_with_contrast_only_diseased_patients_change(tmp_path):
    rows, with_lesions = make(tmp_path / "with", contrast=0.8)
    _, without = make(tmp_path / "without", contrast=0)
    for row in rows:
        changed = not np.array_equal(with_lesions[row["path"]], without[row["path"]])
        assert changed == (row["label"] == "lesion")


@pytest.mark.parametrize("contrast", [0.2, 1.0])
@pytest.mark.parametrize("seed", range(6))
def test_a_lesion_raises_the_local_mean_by_the_contrast(seed, contrast):
    healthy = draw(seed, 100 + seed, bits=16).astype(float)
    diseased = draw(seed, 100 + seed, bits=16, contrast=contrast).astype(float)
    share = (diseased / np.maximum(healthy, 1) - 1) / contrast
    core, lesion = share > 0.97, share > 0.05
    assert core.sum() > 10
    assert diseased[core].mean() / healthy[core].mean() == pytest.approx(1 + contrast, rel=0.01)
    assert share.max() < 1.05
    assert np.mean(share == 0) > 0.85
    assert np.median(healthy[lesion]) < 0.7 * np.median(healthy[healthy > 200])  # in a lung, the dark part of a film
    x, y, radius = draw_anatomy(np.random.default_rng(seed)).lobes[0]
    rows, columns = np.nonzero(core)
    found = np.array([columns.mean() * 2 / 180 - 1, rows.mean() * 2 / 200 - 1])
    assert np.linalg.norm(found - [x, y]) < 0.2 + radius / 2  # a pose moves it by no more
    assert lesion.sum() > 0.5 * np.pi * radius**2 * healthy.size / 4  # of the first blob's disc, in pixels


def test_contrast_acts_in_proportion():
    healthy, half, full = (draw(3, 4, bits=16, contrast=c).astype(float) for c in (0, 0.4, 0.8))
    assert np.abs((full - healthy) - 2 * (half - healthy)).max() <= 2  # three roundings


@pytest.fixture
def still(monkeypatch):
    """Hold the patient still and the exposure constant."""
    still_pose = {"shift_x": (0, 0), "shift_y": (0, 0), "turn": (0, 0), "zoom": (1, 1)}
    monkeypatch.setattr(phantoms, "POSE_RANGES", still_pose)
    monkeypatch.setattr(phantoms, "EXPOSURE_RANGE", (1, 1))


@pytest.mark.parametrize("scanner", SCANNERS, ids=lambda scanner: scanner.name)
@pytest.mark.usefixtures("still")
def test_views_of_a_patient_at_rest_differ_by_the_noise_of_the_scanner(scanner):
    first, second = (draw(5, view, scanner, (256, 256), bits=16).astype(float) for view in (1, 2))
    first, second = first[80:240, 60:200], second[80:240, 60:200]
    noise = (first - second) / (first + second)
    grain = scanner.grain  # weights of white and of the mean of four: the two share a quarter of their sum
    variance = (1 - grain) ** 2 + grain**2 + (1 - grain) * grain
    assert noise.std() == pytest.approx(scanner.noise * np.sqrt(variance / 2), rel=0.05)
    neighbours = np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1]
    expected = (grain**2 / 2 + (1 - grain) * grain / 2) / variance
    assert neighbours == pytest.approx(expected, abs=0.04)


@pytest.mark.usefixtures("still")
def test_patients_differ_far_beyond_noise_and_scanners_in_gain():
    middle = np.s_[60:, 40:140]
    a, b = (draw(seed, 1, bits=16).astype(float)[middle] for seed in (1, 2))  # the noise is the same
    assert ((a - b) / (a + b)).std() > 2 * SCANNERS[0].noise
    other = draw(1, 1, SCANNERS[1], bits=16).astype(float)[middle]
    assert other.mean() / a.mean() == pytest.approx(SCANNERS[1].gain / SCANNERS[0].gain, rel=0.01)


def test_views_move_the_patient_a_little():
    first, second = (draw(5, view).astype(float) for view in (1, 2))
    assert not np.array_equal(first, second)
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.5


@pytest.mark.parametrize("seed", range(5))
def test_a_film_shows_dark_lungs_between_bright_midline_and_belly(seed):
    film = draw(seed, seed).astype(float)
    lungs = (film[60:110, 30:60].mean() + film[60:110, 120:150].mean()) / 2
    assert film[60:110, 85:95].mean() > 1.5 * lungs
    assert film[175:, 60:120].mean() > 1.5 * lungs
    assert film[:5, :5].mean() < lungs / 2  # air beside the neck


def test_every_scanner_has_a_marker_of_its_own():
    corners = {draw(1, 1, scanner)[2:12, -11:-2].astype(int).tobytes() for scanner in SCANNERS}
    assert len(corners) == len(SCANNERS)
    assert all((draw(1, 1, scanner)[:14, -14:] == round(0.95 * 255)).sum() > 20 for scanner in SCANNERS)


# --- planted faults -------------------------------------------------------------------------------------------------


def find_copies(rows, films):
    groups = defaultdict(list)
    for row in rows:
        film = films[row["path"]]
        groups[film.shape, film.tobytes()].append(row)
    return [group for group in groups.values() if len(group) > 1]


def test_a_sound_set_has_no_copies(tmp_path):
    assert find_copies(*make(tmp_path)) == []


def test_duplicates_and_contradictions_are_planted(tmp_path):
    rows, films = make(tmp_path, duplicates=3, contradicting=2)
    copies = find_copies(rows, films)
    assert [len(group) for group in copies] == [2] * 5
    assert all(a["patient"] != b["patient"] for a, b in copies)
    assert sum(a["label"] == b["label"] for a, b in copies) == 3
    for a, b in copies:
        assert (tmp_path / a["path"]).read_bytes() != (tmp_path / b["path"]).read_bytes()
    assert all(len(found) == 1 for found in gather(rows, "patient", "label").values())


def test_with_a_split_duplicates_cross_it_and_contradictions_do_not(tmp_path):
    copies = find_copies(*make(tmp_path, duplicates=3, contradicting=2, split=True))
    crossing = [(a["split"] == "test") != (b["split"] == "test") for a, b in copies]
    assert crossing == [a["label"] == b["label"] for a, b in copies]
    assert sum(crossing) == 3


@pytest.mark.parametrize("shortcut", [0, 0.4, 1])
def test_the_shortcut_is_the_correlation_of_label_and_scanner(tmp_path, shortcut):
    rows, _ = make(tmp_path, n_patients=50, views=(1, 1), shortcut=shortcut, prevalence=0.4)
    lesion = [row["label"] == "lesion" for row in rows]
    phi = np.corrcoef(lesion, [row["scanner"] == "B" for row in rows])[0, 1]
    assert phi == pytest.approx(shortcut, abs=0.06)  # whole patients


def test_four_scanners_share_the_patients_evenly(tmp_path):
    rows, _ = make(tmp_path, n_patients=32, views=(1, 1), scanners=4)
    assert Counter((row["scanner"], row["label"]) for row in rows) == {
        (scanner, label): 4 for scanner in "ABCD" for label in ("healthy", "lesion")
    }


def test_label_noise_flips_patients_and_leaves_films_alone(tmp_path):
    right, films = make(tmp_path / "right", n_patients=40)
    noisy, noisy_films = make(tmp_path / "noisy", n_patients=40, label_noise=0.15)
    assert all(np.array_equal(films[path], noisy_films[path]) for path in films)
    flipped = {a["patient"] for a, b in zip(right, noisy, strict=True) if a["label"] != b["label"]}
    assert len(flipped) == 6
    assert all(len(found) == 1 for found in gather(noisy, "patient", "label").values())


def test_the_split_keeps_patients_together_and_labels_apart_alike(tmp_path):
    rows, _ = make(tmp_path, n_patients=40, split=True)
    parts = gather(rows, "patient", "split")
    assert all(len(found) == 1 for found in parts.values())
    labels = {row["patient"]: row["label"] for row in rows}
    counts = Counter((next(iter(found)), labels[patient]) for patient, found in parts.items())
    assert counts == {
        (part, label): n for part, n in (("test", 4), ("val", 2), ("train", 14)) for label in phantoms.LABELS
    }


@pytest.mark.parametrize("leak", [1, 5, 12])
def test_leaking_patients_stand_on_both_sides(tmp_path, leak):
    rows, _ = make(tmp_path, split=True, leak=leak)
    parts = gather(rows, "patient", "split")
    assert sum("test" in found and len(found) == 2 for found in parts.values()) == leak
    assert sum(len(found) == 1 for found in parts.values()) == 12 - leak


# --- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_patients": 1}, r"n_patients must be a whole number from 2 to \d+; found 1\."),
        ({"n_patients": 2.5}, r"n_patients must be a whole number.*found 2\.5"),
        ({"contrast": -0.1}, r"contrast must be a number from 0 to 1; found -0\.1"),
        ({"contrast": float("nan")}, "contrast must be a number from 0 to 1; found nan"),
        ({"prevalence": 0}, "prevalence must be above 0 and below 1; found 0"),
        ({"prevalence": 1.0}, r"prevalence must be above 0 and below 1; found 1\.0"),
        ({"bits": 12}, "bits must be 8 or 16; found 12"),
        ({"size_px": 31}, "size_px must be a whole number from 32 to .*found 31"),
        ({"scanners": 5}, "scanners must be a whole number from 1 to 4; found 5"),
        ({"seed": -1}, "seed must be .* from 0 .*found -1"),
        ({"views": (2, 1)}, r"views must be .*found \(2, 1\)"),
        ({"views": (0, 1)}, r"views must be .*found \(0, 1\)"),
        ({"views": (1,)}, r"views must be .*found \(1,\)"),
        ({"shortcut": 1.5}, r"shortcut must be a number from 0 to 1; found 1\.5"),
        ({"label_noise": -1}, "label_noise must be a number from 0 to 1; found -1"),
        ({"duplicates": -1}, "duplicates must be a whole number from 0 .*found -1"),
        ({"duplicates": 8, "contradicting": 5}, "contradicting must be at most n_patients = 12; found 13"),
        ({"shortcut": 0.5, "scanners": 1}, "scanners must be at least 2 for a shortcut; found 1"),
        ({"leak": 1}, "split must be True .*found False"),
        ({"leak": 13, "split": True}, "leak must be at most n_patients = 12; found 13"),
        ({"leak": 1, "split": True, "views": (1, 1)}, r"views must be up to at least 2 .*found \(1, 1\)"),
        ({"split": True, "prevalence": 0.1}, "split must be left out .*found '1 patients'"),
    ],
)
def test_bad_options_name_the_range_and_the_value(options, message):
    with pytest.raises(OptionError, match=message):
        PhantomOptions(**{**TINY, **options})


@pytest.mark.slow
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(6, 14),
    views=st.tuples(st.integers(1, 2), st.integers(2, 3)),
    size=st.integers(32, 48),
    contrast=st.floats(0, 1),
    scanners=st.integers(2, 4),
    seed=st.integers(0, 2**63 - 1),
    bits=st.sampled_from([8, 16]),
    faults=st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 6)),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_any_options_in_range_make_a_whole_set(
    tmp_path_factory, n, views, size, contrast, scanners, seed, bits, faults, shares
):
    duplicates, contradicting, leak = faults
    rows, films = make(
        tmp_path_factory.mktemp("phantoms"), n_patients=n, views=views, size_px=size, contrast=contrast,
        scanners=scanners, seed=seed, bits=bits, duplicates=duplicates,
        contradicting=contradicting, leak=leak, split=True, shortcut=shares[0], label_noise=shares[1],
    )  # fmt: skip
    assert len({row["patient"] for row in rows}) == n + duplicates + contradicting
    assert {row["label"] for row in rows} <= {"healthy", "lesion"}
    assert {row["split"] for row in rows} == {"train", "val", "test"}
    assert {row["scanner"] for row in rows} <= set("ABCD"[:scanners])
    per_patient = Counter(row["patient"] for row in rows if int(row["patient"][1:]) <= n)
    assert min(per_patient.values()) >= views[0]
    assert max(per_patient.values()) <= views[1]
    for film in films.values():
        assert film.shape[1] == size
        assert film.std() > 0
    assert len(find_copies(rows, films)) == duplicates + contradicting
