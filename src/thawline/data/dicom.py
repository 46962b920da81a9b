"""One DICOM object to the pixels that a display would show.

pydicom reads and decodes; what it leaves to the caller is the grayscale pipeline (DICOM PS3.3, C.7.6.16.2.9 and C.11):
stored values go through the modality transformation, then through the window or the lookup table of interest, and those
of MONOCHROME1 are turned round. Every refusal is an `ImageError` that repeats no value of the file: it could be a name.
"""

from __future__ import annotations

import dataclasses
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.data.dicom_values import guard, list_values, take_first
from thawline.data.quiet import silence
from thawline.data.suv import find_suv_factor
from thawline.errors import ImageError
from thawline.types import MAMMOGRAPHY, SUV, SUV_WINDOW, WINDOWS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from thawline.types import FloatArray, Pixels

PREFIX = slice(128, 132), b"DICM"
BARE = (b"\x02\x00", b"\x08\x00", b"\x00\x08")  # the first group of a data set without a preamble, in either byte order
PERCENTILES = (0.5, 99.5)  # that are black and white where nothing says what is
PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
NO_IMAGES = {"SEG": "a segmentation", "RTDOSE": "a dose distribution", "RWV": "a table of values", "SR": "a report"}
GREY = ("MONOCHROME1", "MONOCHROME2")
MODALITIES = (
    *("CR", "CT", "DX", "ES", "GM", "IO", "IVUS", "MG", "MR", "NM", "OCT", "OP"),
    *("OPT", "OT", "PT", "PX", "RF", "RG", "SM", "US", "XA", "XC"),
)
SQUARE, MOST_RATIO = 0.01, 10  # from which ratio on pixels are made square, and which one is damage
FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """Values from black to white: DICOM's centre, width and function (LINEAR, LINEAR_EXACT or SIGMOID)."""

    centre: float
    width: float
    function: str = "LINEAR"

    def apply(self, values: FloatArray) -> FloatArray:
        """Return shares of white, 0 to 1 (PS3.3, C.11.2.1.2 and C.11.2.1.3). Raises ImageError for an impossible width."""
        least = 1.0 if self.function == "LINEAR" else np.finfo(np.float64).tiny
        if not (self.width >= least and np.isfinite([self.centre, self.width]).all()):
            raise ImageError(f"the window's width is {self.width:g}; at least {least:.0f} is expected")
        if self.function == "SIGMOID":
            return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - self.centre) / self.width, -700, 700))))
        if self.function == "LINEAR" and self.width > 1:
            return np.asarray(np.clip((values - (self.centre - 0.5)) / (self.width - 1) + 0.5, 0, 1))
        if self.function == "LINEAR":
            return (values > self.centre - 0.5).astype(np.float64)
        return np.asarray(np.clip((values - self.centre) / self.width + 0.5, 0, 1))


def is_dicom(data: bytes) -> bool:
    """Tell whether bytes begin as a DICOM file does, or as a data set without its preamble."""
    place, mark = PREFIX
    return (
        data[place] == mark or (data[:2] in BARE and len(data) > 8 and data[4:6].isalpha()) or _is_bare_implicit(data)
    )


def _is_bare_implicit(data: bytes) -> bool:
    """Tell a data set without preamble and value types: its first element is the length of its group, or a short one."""
    return data[:2] == b"\x08\x00" and len(data) > 8 and int.from_bytes(data[4:8], "little") <= 64


def read_object(data: bytes) -> Any:
    """Return pydicom's data set of a file. Raises ImageError for one that it cannot read, or without pixels."""
    import pydicom

    found = guard("header", lambda: pydicom.dcmread(io.BytesIO(data), force=True))
    if not any(keyword in found for keyword in PIXEL_KEYWORDS):
        name = guard("header", lambda: _name_class(found.get("SOPClassUID")))
        raise ImageError(f"a DICOM object without pixels ({name}); expected an image")
    return found


def _name_class(uid: Any) -> str:
    """Return the standard's name of a class of objects; of any other text, which damage may have moved here, nothing."""
    return str(uid.name) if getattr(uid, "type", "") else "unknown"


def read_patient(path: Path) -> tuple[str, str]:
    """Return the patient id of a file and who issued it, empty where there is none or no DICOM header that can be read.

    Pixels are not read. What is returned names a person: it goes through `identity.key_patient` before it goes anywhere.
    """
    import pydicom

    try:
        with path.open("rb") as stream, silence():
            if not is_dicom(stream.read(PREFIX[0].stop)):
                return "", ""
            stream.seek(0)
            tags = ["PatientID", "IssuerOfPatientID"]
            found = guard(
                "header", lambda: pydicom.dcmread(stream, force=True, stop_before_pixels=True, specific_tags=tags)
            )
            patient, issuer = guard("header", lambda: [str(found.get(name) or "").strip() for name in tags])
    except (OSError, ImageError):
        return "", ""  # said when the item is read
    return patient, issuer


def count_frames(found: Any) -> int:
    """Return the number of frames of an object. Raises ImageError where it says none that is a number."""
    return guard("number of frames", lambda: int(found.get("NumberOfFrames") or 1))


def read_size(found: Any) -> tuple[int, int]:
    """Return columns and rows, as the header says them. Raises ImageError where it does not."""
    return guard("size", lambda: (int(found.Columns), int(found.Rows)))


def read_stored(found: Any, frame: int = 0) -> Pixels:
    """Return the values of one frame as they are stored, (rows, columns), or RGB (rows, columns, 3), of their own type.

    YBR is converted as the standard says; palette indices stay what they are. Raises ImageError where decoding fails.
    """
    from pydicom.pixels.utils import pixel_array

    if getattr(getattr(found, "file_meta", None), "TransferSyntaxUID", None) is None:
        _name_syntax(found)
    values: Pixels = guard("pixels", lambda: pixel_array(found, index=frame))
    return values


def show(found: Any, frame: int = 0, windows: Sequence[str] = ()) -> Pixels:
    """Return one frame as a display shows it: uint8 (rows, columns) or (rows, columns, 3); colour of 16 bits stays uint16.

    ``windows`` are those of `types.Reading`, for grey images: several make channels.
    Raises ImageError as `read_stored`, for a photometric interpretation that no image has, and for a window in units that
    the object does not have.
    """
    kind, photometric = (str(found.get(name, "")) for name in ("Modality", "PhotometricInterpretation"))
    if kind in NO_IMAGES:
        raise ImageError(f"a DICOM object of modality {kind}, {NO_IMAGES[kind]}, not an image")
    stored = read_stored(found, frame)
    if photometric == "PALETTE COLOR":
        return guard("palette", lambda: _colour_palette(stored, found))
    if stored.ndim == 3:
        return stored
    if photometric not in GREY:
        raise ImageError("expected grey, palette or colour, found another photometric interpretation, or none")
    names = windows or ("",)
    shares: list[FloatArray] = guard("grayscale", lambda: [_show_grey(stored, found, frame, name) for name in names])
    share = np.stack(shares, axis=-1) if len(shares) > 1 else shares[0]
    if photometric == "MONOCHROME1":
        share = 1 - share
    share[find_padding(stored, found)] = 0
    return np.asarray(np.rint(255 * share).astype(np.uint8))


def find_pixel_ratio(found: Any, frame: int = 0) -> float:
    """Return how far apart rows are by how far apart columns are, 1 where nothing says so (PS3.3, C.7.6.3.1.7 and 10.7).

    Raises ImageError for what no scanner has.
    """
    measures = find_group(found, "PixelMeasuresSequence", frame)
    for source, name in (
        (measures, "PixelSpacing"),
        (found, "ImagerPixelSpacing"),
        (found, "NominalScannedPixelSpacing"),
        (found, "PixelAspectRatio"),
    ):
        pair = [float(each) for each in list_values(source.get(name))]
        if len(pair) == 2 and min(pair) > 0:
            ratio = pair[0] / pair[1]
            if not 1 / MOST_RATIO <= ratio <= MOST_RATIO:
                raise ImageError(
                    f"{name} says that pixels are {ratio:.3g} times as high as wide; at most {MOST_RATIO} is read"
                )
            return ratio
    return 1.0


def make_square(pixels: Pixels, ratio: float) -> Pixels:
    """Return pixels that are ``ratio`` times as high as wide with the nearer side interpolated until they are square."""
    if abs(ratio - 1) <= SQUARE:
        return pixels
    from skimage.transform import resize

    height, width = pixels.shape[:2]
    size = (round(height * ratio), width) if ratio > 1 else (height, round(width / ratio))
    shape = (*size, *pixels.shape[2:])
    return np.asarray(np.rint(resize(pixels, shape, order=1, mode="edge", preserve_range=True)).astype(pixels.dtype))


def find_padding(stored: Pixels, found: Any) -> Any:
    """Return a mask of the stored values that pad the image (PS3.3, C.7.5.1.1.2)."""
    low = found.get("PixelPaddingValue")
    if low is None:
        return np.zeros(stored.shape, bool)
    ends = guard("padding", lambda: sorted((int(low), int(found.get("PixelPaddingRangeLimit", low)))))
    return (stored >= ends[0]) & (stored <= ends[1])


def find_group(found: Any, name: str, frame: int) -> Any:
    """Return where the attributes of a functional group stand for a frame: its own, the shared, or the object itself."""
    for groups, place in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        sequence = found.get(groups)
        if sequence and place < len(sequence) and sequence[place].get(name):
            return sequence[place].get(name)[0]
    return found


def find_window(found: Any, frame: int = 0) -> Window | None:
    """Return the first window of a frame, None where the file has none."""
    group = find_group(found, "FrameVOILUTSequence", frame)
    centre, width = (take_first(group.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if centre is None or width is None:
        return None
    function = str(group.get("VOILUTFunction", "")).upper()
    return Window(float(centre), float(width), function if function in FUNCTIONS else FUNCTIONS[0])


def _show_grey(stored: Pixels, found: Any, frame: int, window_name: str) -> FloatArray:
    """Return shares of white, float64, before MONOCHROME1 is turned round; without a name as the file says."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi

    group = find_group(found, "PixelValueTransformationSequence", frame)
    values = np.asarray(apply_modality_lut(stored, group))
    if window_name == MAMMOGRAPHY:
        return _stretch(values.astype(np.float64), find_padding(stored, found) | _find_air(values, found))
    if window_name == SUV:
        return Window(*SUV_WINDOW).apply(values.astype(np.float64) * find_suv_factor(found))
    if window_name:
        return _name_window(window_name, found).apply(values.astype(np.float64))
    tables = find_group(found, "FrameVOILUTSequence", frame)
    if tables.get("VOILUTSequence"):
        bits = int(tables.VOILUTSequence[0].LUTDescriptor[2])
        return np.asarray(np.asarray(apply_voi(np.rint(values).astype(np.int64), tables), np.float64) / (2**bits - 1))
    window = find_window(found, frame)
    if window is not None:
        return window.apply(values.astype(np.float64))
    return _stretch(values.astype(np.float64), find_padding(stored, found))


def _name_window(name: str, found: Any) -> Window:
    """Return the window of a name, or of CENTRE/WIDTH. Raises ImageError for Hounsfield units where there are none."""
    if name not in WINDOWS:
        centre, width = map(float, name.split("/"))
        return Window(centre, width)
    kind = str(found.get("Modality", ""))
    if kind != "CT":
        said = kind if kind in MODALITIES else "unknown"
        raise ImageError(f"the window {name} is in Hounsfield units, which only CT has; found the modality {said}")
    return Window(*WINDOWS[name])


def _find_air(values: Any, found: Any) -> Any:
    """Return a mask of what is no breast in a mammogram: the dark side of Otsu's threshold (IEEE SMC 9:62, 1979)."""
    from skimage.filters import threshold_otsu

    edge = threshold_otsu(values)
    return values >= edge if found.PhotometricInterpretation == "MONOCHROME1" else values <= edge


def _stretch(values: FloatArray, padding: Any) -> FloatArray:
    """Return shares of white between the percentiles of what is not padding."""
    inside = values[~padding & np.isfinite(values)]
    if not inside.size:
        raise ImageError("no image content: all pixels are padding or no finite numbers")
    low, high = np.percentile(inside, PERCENTILES)
    if low == high:
        low, high = float(inside.min()), float(inside.max())
    if low == high:
        return np.zeros(values.shape)
    finite = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    return np.asarray(np.clip((finite - low) / (high - low), 0, 1))


def _colour_palette(stored: Pixels, found: Any) -> Pixels:
    """Return RGB of 8 bits for the indices of a palette."""
    from pydicom.pixels.processing import apply_color_lut

    colours = np.asarray(apply_color_lut(stored, found))[..., :3]
    return colours if colours.dtype == np.uint8 else (colours >> 8).astype(np.uint8)


def _name_syntax(found: Any) -> None:
    """Say how a data set without file meta information is encoded, as pydicom found out when it read it."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    implicit, little = found.original_encoding
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = (
        ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    )
    found.file_meta = meta
