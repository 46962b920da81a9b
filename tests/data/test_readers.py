"""Readers: pixel values against the arrays that were written, refusals, and damaged files."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import skimage.io
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from thawline.data import image_files, readers
from thawline.data.readers import ImageFacts, content_digest, decode, describe, read_content
from thawline.errors import ImageError
from thawline.types import Reading

HEIGHT, WIDTH = 24, 20


def draw(channels: int = 0, dtype: str = "uint8") -> np.ndarray:
    """Smooth waves over most of the range of the type, shape (24, 20[, channels])."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    planes = [np.sin(x / 5 + channel) * np.cos(y / 7) for channel in range(max(1, channels))]
    waves = np.stack(planes, axis=2) if channels else planes[0]
    if dtype == "float32":
        return (waves * 1000).astype(np.float32)
    top = np.iinfo(dtype).max
    return ((waves + 1) / 2 * top).astype(dtype)


def save(array: np.ndarray, kind: str, mode: str | None = None, **options: object) -> bytes:
    image = Image.fromarray(array)
    stream = io.BytesIO()
    (image.convert(mode) if mode else image).save(stream, kind, **options)
    return stream.getvalue()


def save_tiff(array: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **options)
    return stream.getvalue()


def save_npy(array: np.ndarray, *, pickled: bool = False) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=pickled)
    return stream.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def save_png_16(array: np.ndarray, extra: bytes = b"", interlaced: bool = False) -> bytes:
    """Write a 16-bit PNG by hand, after the PNG specification: no filter, optionally Adam7."""
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[array.shape[2] if array.ndim == 3 else 1]
    big = array.astype(">u2")
    adam7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    passes = [big[top::down, left::right] for top, left, down, right in adam7] if interlaced else [big]
    rows = b"".join(b"\0" + row.tobytes() for part in passes for row in part)
    header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, kind, 0, 0, int(interlaced))
    parts = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def over_black(array: np.ndarray) -> np.ndarray:
    """Composite in float64: the definition."""
    top = np.iinfo(array.dtype).max
    colour = np.floor(array[..., :-1].astype(float) * array[..., -1:] / top + 0.5).astype(array.dtype)
    return colour[..., 0] if colour.shape[2] == 1 else colour


LOSSLESS = {
    "PNG grey": (save(draw(), "PNG"), draw()),
    "PNG RGB": (save(draw(3), "PNG"), draw(3)),
    "PNG RGBA": (save(draw(4), "PNG"), over_black(draw(4))),
    "PNG grey and alpha": (save(draw(2), "PNG"), over_black(draw(2))),
    "PNG 16 bit": (save(draw(dtype="uint16"), "PNG"), draw(dtype="uint16")),
    "PNG 16-bit RGB": (save_png_16(draw(3, "uint16")), draw(3, "uint16")),
    "PNG 16-bit RGB, interlaced": (save_png_16(draw(3, "uint16"), interlaced=True), draw(3, "uint16")),
    "PNG 16-bit RGBA": (save_png_16(draw(4, "uint16")), over_black(draw(4, "uint16"))),
    "PNG 16-bit grey and alpha": (save_png_16(draw(2, "uint16")), over_black(draw(2, "uint16"))),
    "PNG 1 bit": (save(draw() > 127, "PNG"), (draw() > 127) * np.uint8(255)),
    "BMP grey": (save(draw(), "BMP"), draw()),
    "BMP RGB": (save(draw(3), "BMP"), draw(3)),
    "WebP RGB": (save(draw(3), "WEBP", lossless=True), draw(3)),
    "WebP RGBA": (save(draw(4), "WEBP", lossless=True, exact=True), over_black(draw(4))),
    "TIFF grey": (save_tiff(draw()), draw()),
    "TIFF RGB, LZW": (save(draw(3), "TIFF", compression="tiff_lzw"), draw(3)),
    "TIFF 8-bit RGBA": (save(draw(4), "TIFF"), over_black(draw(4))),
    "TIFF white is zero": (save_tiff(draw(), photometric="miniswhite"), 255 - draw()),
    "TIFF 1 bit, group 4": (save(draw() > 127, "TIFF", compression="group4"), (draw() > 127) * np.uint8(255)),
    "TIFF 16 bit": (save_tiff(draw(dtype="uint16")), draw(dtype="uint16")),
    "TIFF 16 bit, big-endian": (save_tiff(draw(dtype="uint16"), byteorder=">"), draw(dtype="uint16")),
    "TIFF 16 bit, white is zero": (
        save_tiff(draw(dtype="uint16"), photometric="miniswhite"),
        65535 - draw(dtype="uint16"),
    ),
    "TIFF 16-bit RGB": (save_tiff(draw(3, "uint16"), photometric="rgb"), draw(3, "uint16")),
    "TIFF 16-bit RGB, tiles": (
        save_tiff(draw(3, "uint16"), photometric="rgb", tile=(16, 16), compression="zlib"),
        draw(3, "uint16"),
    ),
    "TIFF 16-bit RGB, planes": (
        save_tiff(np.moveaxis(draw(3, "uint16"), 2, 0), photometric="rgb", planarconfig="separate"),
        draw(3, "uint16"),
    ),
    "TIFF 16-bit RGBA": (
        save_tiff(draw(4, "uint16"), photometric="rgb", extrasamples=["unassalpha"]),
        over_black(draw(4, "uint16")),
    ),
    "TIFF float": (save_tiff(draw(dtype="float32")), draw(dtype="float32")),
    "TIFF float RGB": (save_tiff(draw(3, "float32"), photometric="rgb"), draw(3, "float32")),
    "TIFF int16": (save_tiff(draw(dtype="int16") - 9000), (draw(dtype="int16") - 9000).astype(np.float32)),
    "TIFF int8": (save_tiff(draw(dtype="int8") - 100), (draw(dtype="int8") - 100).astype(np.float32)),
    "TIFF half float": (
        save_tiff(draw(dtype="float32").astype("f2")),
        draw(dtype="float32").astype("f2").astype("f4"),
    ),
    "BigTIFF": (save_tiff(draw(), bigtiff=True), draw()),
    "NumPy grey": (save_npy(draw()), draw()),
    "NumPy RGB": (save_npy(draw(3)), draw(3)),
    "NumPy one channel": (save_npy(draw()[..., None]), draw()),
    "NumPy 16 bit, big-endian": (save_npy(draw(dtype="uint16").astype(">u2")), draw(dtype="uint16")),
    "NumPy float by columns": (save_npy(np.asfortranarray(draw(dtype="float32"))), draw(dtype="float32")),
    "NumPy truth values": (save_npy(draw() > 127), (draw() > 127) * np.uint8(255)),
    "NumPy int16": (save_npy(draw(dtype="int16") - 9000), (draw(dtype="int16") - 9000).astype(np.float32)),
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_formats_give_back_what_was_written(name: str) -> None:
    data, expected = LOSSLESS[name]
    pixels = decode(data)
    assert pixels.dtype == expected.dtype
    assert pixels.dtype.isnative
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("name", ["PNG RGB", "PNG 16 bit", "BMP RGB", "WebP RGB", "TIFF grey", "TIFF 16-bit RGB"])
def test_another_reader_agrees(name: str, tmp_path: Path) -> None:
    file = tmp_path / f"image.{name.partition(' ')[0].lower()}"
    file.write_bytes(LOSSLESS[name][0])
    np.testing.assert_array_equal(decode(read_content(file)), skimage.io.imread(file))


def test_palette_with_and_without_transparency() -> None:
    indexed = Image.fromarray(draw() // 86)
    indexed.putpalette([200, 10, 20, 0, 90, 180, 7, 7, 7])
    table = np.array([[200, 10, 20], [0, 90, 180], [7, 7, 7]], dtype=np.uint8)
    for transparency, alpha in ((None, (255, 255, 255)), (1, (255, 0, 255)), (b"\xff\x80\x00", (255, 128, 0))):
        stream = io.BytesIO()
        indexed.save(stream, "PNG", **({} if transparency is None else {"transparency": transparency}))
        expected = over_black(np.column_stack([table, np.array(alpha, dtype=np.uint8)])[draw() // 86])
        np.testing.assert_array_equal(decode(stream.getvalue()), expected)


def test_transparent_colour_turns_black() -> None:
    grey, wide = draw(), draw(3, "uint16")
    np.testing.assert_array_equal(
        decode(save(grey, "PNG", transparency=int(grey[3, 4])))[..., 0], np.where(grey == grey[3, 4], 0, grey)
    )
    key = wide[5, 6]
    marked = save_png_16(wide, extra=chunk(b"tRNS", key.astype(">u2").tobytes()))
    np.testing.assert_array_equal(decode(marked), np.where((wide == key).all(axis=2, keepdims=True), 0, wide))
    plain = draw(dtype="uint16")
    marked = save_png_16(plain, extra=chunk(b"tRNS", struct.pack(">H", plain[2, 2])))
    np.testing.assert_array_equal(decode(marked), np.where(plain == plain[2, 2], 0, plain))


def test_cmyk_follows_the_closed_form() -> None:
    inks = draw(4)
    expected = (255.0 - inks[..., :3]) * (255.0 - inks[..., 3:]) / 255
    stream = io.BytesIO()
    Image.fromarray(inks, mode="CMYK").save(stream, "TIFF")
    assert np.abs(decode(stream.getvalue()) - expected).max() <= 1
    stream = io.BytesIO()
    Image.fromarray(inks, mode="CMYK").save(stream, "JPEG", quality=100, subsampling=0)
    assert np.abs(decode(stream.getvalue()) - expected).max() <= 5


def test_jpeg_is_near_the_original() -> None:
    assert np.abs(decode(save(draw(), "JPEG", quality=100)).astype(int) - draw()).max() <= 2
    colour = decode(save(draw(3), "JPEG", quality=100, subsampling=0))
    assert np.abs(colour.astype(int) - draw(3)).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "wide TIFF", "wide PNG"])
def test_orientation_is_applied_as_exif_defines_it(orientation: int, kind: str) -> None:
    """EXIF 2.3: where the 0th row and the 0th column of the stored image are in the upright one."""
    upright = draw(3, "uint16" if "wide" in kind else "uint8")
    stored = {
        1: upright,
        2: np.flip(upright, 1),
        3: np.rot90(upright, 2),
        4: np.flip(upright, 0),
        5: np.transpose(upright, (1, 0, 2)),
        6: np.rot90(upright, 1),
        7: np.rot90(np.transpose(upright, (1, 0, 2)), 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    if kind == "wide TIFF":
        data = save_tiff(np.ascontiguousarray(stored), photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
    elif kind == "wide PNG":
        data = save_png_16(stored, extra=chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    else:
        lossless = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(kind, {})
        data = save(np.ascontiguousarray(stored), kind, exif=exif, **lossless)
    pixels = decode(data)
    assert pixels.shape == upright.shape
    assert np.abs(pixels.astype(int) - upright).max() <= (4 if kind == "JPEG" else 0)


@pytest.mark.parametrize(
    ("width", "height", "reduce_to", "scale"),
    [
        (800, 640, 40, 8),
        (800, 640, 50, 4),  # an eighth would leave 80, less than twice 50
        (801, 641, 80, 4),
        (800, 640, 160, 2),
        (800, 640, 161, 1),
        (90, 90, 64, 1),
    ],
)
def test_reduced_jpeg_keeps_a_gap_of_two(width: int, height: int, reduce_to: int, scale: int) -> None:
    y, x = np.mgrid[0:height, 0:width]
    original = (127 + 100 * np.sin(x / 60) * np.cos(y / 60)).astype(np.uint8)
    pixels = decode(save(original, "JPEG", quality=95), reduce_to_px=reduce_to)
    assert pixels.shape == (-(-height // scale), -(-width // scale))
    whole = original[: height // scale * scale, : width // scale * scale].astype(float)
    means = whole.reshape(height // scale, scale, width // scale, scale).mean(axis=(1, 3))
    assert np.abs(pixels[: means.shape[0], : means.shape[1]] - means).max() < 6


def test_only_jpeg_is_reduced() -> None:
    large = np.kron(draw(), np.ones((10, 10), dtype=np.uint8))
    assert decode(save(large, "PNG"), reduce_to_px=16).shape == (240, 200)


def test_content_lost_by_the_reduction_is_read_in_full() -> None:
    spots = np.full((640, 640), 128, dtype=np.uint8)
    spots[100::200, 100::200] = 131
    data = save(spots, "JPEG", quality=100)
    pixels = decode(data, reduce_to_px=16)
    assert pixels.min() < pixels.max()


@pytest.mark.parametrize("array", [draw(), draw(3), draw(dtype="uint16"), draw(3, "float32"), draw() > 127])
def test_arrays_are_taken_as_they_are(array: np.ndarray) -> None:
    expected = array * np.uint8(255) if array.dtype == bool else array
    np.testing.assert_array_equal(decode(array), expected)
    np.testing.assert_array_equal(decode(array[..., None] if array.ndim == 2 else array), expected)


def test_integers_and_doubles_that_fit_become_float32() -> None:
    wide = draw(dtype="int16").astype(np.int64) - 1024
    assert decode(wide).dtype == np.float32
    np.testing.assert_array_equal(decode(wide), wide)
    np.testing.assert_array_equal(decode(wide / 4), wide / 4)


def bomb_png() -> bytes:
    header = struct.pack(">IIBBBBB", 60000, 50000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    )


def bomb_tiff() -> bytes:
    data = bytearray(save(draw(), "TIFF"))
    at = data.index(struct.pack("<HHI", 256, 4, 1)) if struct.pack("<HHI", 256, 4, 1) in data else -1
    at = at if at >= 0 else data.index(struct.pack("<HHI", 256, 3, 1))
    data[at : at + 12] = struct.pack("<HHII", 256, 4, 1, 30_000_000)
    return bytes(data)


def pages(n_pages: int) -> bytes:
    return save_tiff(np.stack([draw()] * n_pages), photometric="minisblack")


def animation() -> bytes:
    stream = io.BytesIO()
    frames = [Image.fromarray(draw()), Image.fromarray(255 - draw())]
    frames[0].save(stream, "PNG", save_all=True, append_images=frames[1:])
    return stream.getvalue()


def holes() -> np.ndarray:
    array = draw(dtype="float32")
    array[0, :3] = np.nan
    array[1, 1] = np.inf
    return array


REFUSED = {
    "empty": (b"", "the file is empty (0 bytes)"),
    "text": (
        b"just some text, named .png",
        "not a PNG, JPEG, TIFF, BMP, WebP, DICOM, NIfTI, NRRD, MetaImage or NumPy image: the file starts with b'just som'",
    ),
    "GIF": (save(draw(), "GIF"), "not a PNG, JPEG, TIFF, BMP, WebP, DICOM, NIfTI, NRRD, MetaImage or NumPy image"),
    "header only": (save(draw(), "PNG")[:30], "damaged, cut off or unsupported PNG"),
    "flipped byte": (
        save(draw(), "PNG")[:60] + b"\x55" + save(draw(), "PNG")[61:],
        "damaged, cut off or unsupported PNG",
    ),
    "half a JPEG": (save(draw(), "JPEG")[:400], "damaged, cut off or unsupported JPEG: image file is truncated"),
    "half a TIFF": (save_tiff(draw(3, "uint16"), photometric="rgb")[:-100], "cut off"),
    "large PNG": (bomb_png(), "60000 x 50000 px = 3,000,000,000 pixels; at most 100,000,000"),
    "large TIFF": (bomb_tiff(), "30000000 x 24 px = 720,000,000 pixels; at most 100,000,000"),
    "small": (save(draw()[:7], "PNG"), "20 x 7 px is too small: each side needs at least 8 px"),
    "constant": (save(np.full((9, 9), 77, np.uint8), "PNG"), "no image content: all 9 x 9 pixels are 77"),
    "constant colour": (np.full((9, 9, 3), 7, np.uint8), "no image content: all 9 x 9 pixels are [7 7 7]"),
    "pages": (pages(3), "the TIFF holds 3 pages"),
    "wide pages": (
        save_tiff(np.stack([draw(3, "uint16")] * 2), photometric="rgb"),
        "the TIFF holds 2 pages",
    ),
    "animation": (animation(), "the PNG holds 2 pages"),
    "NaN": (save_tiff(holes()), "4 of 480 values are NaN or infinite"),
    "NaN array": (holes(), "4 of 480 values are NaN or infinite"),
    "double TIFF": (save_tiff(draw(dtype="float32") / 3.0**0.5 * np.float64(1.1)), "float64 pixels do not fit float32"),
    "large integers": (draw().astype(np.uint32) * 16_000_001, "uint32 pixels do not fit float32 without loss"),
    "complex": (draw() * 1j, "pixels of type complex128"),
    "16-bit CMYK": (save_tiff(draw(4, "uint16"), photometric="separated"), "photometric 5; save it as grey or RGB"),
    "shape": (np.zeros((5, 9, 9, 3)), "an array of shape (5, 9, 9, 3)"),
    "four channels": (draw(4), "an array of shape (24, 20, 4)"),
    "pickled objects": (
        save_npy(np.array([[{}] * 9] * 9, dtype=object), pickled=True),
        "a .npy of pickled Python objects, which are never unpacked; save an array of numbers",
    ),
    "complex .npy": (save_npy(draw() * 1j), "a .npy of type complex128; expected numbers"),
    "table .npy": (save_npy(np.zeros((9, 9), [("a", "u1")])), "expected numbers, such as uint8"),
    "NaN .npy": (save_npy(holes()), "4 of 480 values are NaN or infinite"),
    "half a .npy": (save_npy(draw())[:-1], "cut off: the .npy of shape (24, 20) should end at byte 608, it has 607"),
    "large .npy": (save_npy(draw()).replace(b"(24, 20), }", b"(24, 20000000000), }"), "should end at byte"),
    "empty .npy": (save_npy(np.zeros((0, 9))), "empty or cut off: the .npy of shape (0, 9)"),
    "negative .npy": (
        save_npy(draw()).replace(b"(24, 20), }", b"(-4, 20), }"),
        "empty or cut off: the .npy of shape (-4",
    ),
    "number in a .npy": (save_npy(np.float32(3)), "an array of shape (); expected (height, width)"),
    "no header .npy": (save_npy(draw())[:40], "damaged or unsupported .npy: its header cannot be read"),
    "shape of .npy": (save_npy(np.ones((2, 2, 9, 9))), "expected (height, width), (height, width, 3) or (depth"),
    "small array": (draw()[:4], "20 x 4 px is too small"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_why_in_a_line(name: str) -> None:
    data, message = REFUSED[name]
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_limit_is_ours_and_pillows_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between Pillow's limit and twice that it would warn, above it would raise an error of its own."""
    for limit in (300, 100, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        for data in (save(draw(), "PNG"), save(draw(), "JPEG"), save(draw(), "BMP")):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert decode(data).shape == (HEIGHT, WIDTH)
        assert limit == Image.MAX_IMAGE_PIXELS


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="the file cannot be read: No such file"):
        read_content(tmp_path / "absent.png")
    with pytest.raises(ImageError, match="cannot be read"):
        read_content(tmp_path)


def test_digest_is_blake2b() -> None:
    assert content_digest(b"thaw") == hashlib.blake2b(b"thaw", digest_size=32).hexdigest()
    array = draw(dtype="uint16")
    same = [array.copy(), np.asfortranarray(array), array.astype(">u2")]
    other = [array[:, :-1], array.reshape(-1), array.astype(np.int32), array + np.uint16(1)]
    assert {content_digest(each) for each in same} == {content_digest(array)}
    assert len({content_digest(each) for each in [array, *other]}) == 5


def test_facts_of_an_image() -> None:
    facts = describe(save_png_16(draw(3, "uint16")))
    drawn = draw(3, "uint16")
    assert facts == ImageFacts(
        WIDTH, HEIGHT, 3, 16, "PNG", float(drawn.min()), float(drawn.max()), content_digest(drawn)
    )
    assert ImageFacts.from_json(json.loads(json.dumps(facts.to_json()))) == facts


def test_equal_pixels_have_equal_digests_in_any_format() -> None:
    grey = draw()
    stacked = np.repeat(grey[..., None], 3, axis=2)
    opaque = np.dstack([stacked, np.full_like(grey, 255)])
    forms = [save(grey, "PNG"), save(grey, "BMP"), save_tiff(grey), save(stacked, "PNG"), save(opaque, "PNG"), grey]
    facts = [describe(form) for form in forms]
    assert len({each.pixel_digest for each in facts}) == 1
    assert {each.channels for each in facts} == {1}
    assert describe(255 - grey).pixel_digest != facts[0].pixel_digest


def test_threads_leave_the_warning_filters_as_they_were() -> None:
    before, jobs = list(warnings.filters), [LOSSLESS[name][0] for name in LOSSLESS]
    threads = [threading.Thread(target=lambda: [decode(data) for data in jobs]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


DAMAGED = {name: data for name, (data, _) in LOSSLESS.items()} | {
    "JPEG": save(draw(3), "JPEG"),
    "JPEG progressive": save(draw(), "JPEG", progressive=True),
    "WebP lossy": save(draw(3), "WEBP"),
    "TIFF JPEG": save(draw(3), "TIFF", compression="jpeg"),
}


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(sorted(DAMAGED)), st.floats(0, 1, exclude_max=True))
def test_a_cut_file_is_refused_unless_nothing_is_missing(name: str, share: float) -> None:
    data = DAMAGED[name]
    with contextlib.suppress(ImageError):
        np.testing.assert_array_equal(decode(data[: int(share * len(data))]), decode(data))


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
@settings(deadline=None, max_examples=300)
@given(st.sampled_from(sorted(DAMAGED)), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1))
def test_flipped_bytes_give_pixels_or_a_reason(name: str, flips: list[tuple[int, int]]) -> None:
    data = bytearray(DAMAGED[name])
    for place, value in flips:
        data[place % len(data)] = value
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(ImageError):
        patch.setattr(image_files, "MAX_PIXELS", 1_000_000)
        pixels = decode(bytes(data))
        assert pixels.dtype in (np.uint8, np.uint16, np.float32)
        assert pixels.ndim == 2 or pixels.shape[2] == 3


@pytest.mark.realdata
def test_real_images_of_all_modes_are_read(shared_data: Path) -> None:
    files = sorted(file for file in (shared_data / "brain-mri").rglob("*") if readers.is_image_name(file))
    facts = [describe(read_content(file)) for file in files]
    assert len(facts) == 253
    assert len({each.pixel_digest for each in facts}) < 253  # some are known to be identical
    for file, each in list(zip(files, facts, strict=True))[::25]:
        referee = skimage.io.imread(file)
        assert (each.height_px, each.width_px) == referee.shape[:2]


@pytest.mark.parametrize(("plane", "axis"), [("axial", 0), ("coronal", 1), ("sagittal", 2)])
def test_an_array_of_three_axes_is_a_volume_that_a_slice_is_taken_of(plane, axis):
    volume = np.random.default_rng(0).integers(0, 255, (10, 12, 14)).astype(np.uint8)
    shown = decode(volume, reading=Reading((), "middle", plane))
    np.testing.assert_array_equal(shown, np.take(volume, volume.shape[axis] // 2, axis=axis))
    wanted = "the array object holds 10 slices or frames, .* choose one with --frame middle"
    with pytest.raises(ImageError, match=wanted):
        decode(volume)
    with pytest.raises(ImageError, match="frame 15 was asked for"):
        decode(volume, reading=Reading((), "15", plane))


def test_a_npy_of_three_axes_is_a_volume_as_an_array_is() -> None:
    volume = np.random.default_rng(0).integers(0, 255, (10, 12, 14)).astype(np.uint8)
    reading = Reading((), "middle", "coronal")
    np.testing.assert_array_equal(decode(save_npy(volume), reading=reading), decode(volume, reading=reading))
    whole = Reading(dimensions="auto")
    assert describe(save_npy(volume), whole).pixel_digest == describe(volume, whole).pixel_digest
    assert (describe(save_npy(volume), whole).slices, describe(save_npy(volume), whole).format) == (10, "NumPy")
    with pytest.raises(ImageError, match="the NumPy object holds 10 slices or frames"):
        decode(save_npy(volume))
