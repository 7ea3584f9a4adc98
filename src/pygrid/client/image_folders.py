"""A table from a folder of images: PNG and JPEG files become arrays of one shape.

    folder/cat/1.png  folder/dog/2.jpg     the name of the folder is the label
    folder/1.png  folder/2.jpg             labels come from a CSV file, or there are none

The images are read on the machine of the data owner, and the Domain gets arrays. A file that is not such an image, or
is too large, is refused by its name; no image is cut or stretched unless ``fit`` says so.
"""

from __future__ import annotations

import csv
import os
import re
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

import numpy as np
import numpy.typing as npt

from pygrid import codes
from pygrid.errors import InvalidInput

Fit = Literal["exact", "crop", "stretch"]
"""What becomes of an image of another size: it is refused, scaled and cut around its center, or scaled only."""

MAX_PIXELS = 64 * 1024**2
"""Pixels of one image before it is scaled."""
_MAX_SIDE = 4096
_SUFFIXES = (".png", ".jpg", ".jpeg")
_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class ImageFolder:
    """A table with a column ``image`` of uint8, and columns of labels.

    domain.datasets.upload("x-rays", ImageFolder("scans", "1x64x64", fit="crop"), visibility="listed")

    Args:
        folder: images in one folder for each label, or all in this folder.
        shape: channels (1: gray, 3: red, green, blue), height and width of each array, for example ``1x64x64``.
        fit: what becomes of an image of another size.
        labels: a CSV file, outside of the folder, with a column ``file`` (path of the image within the folder) and
            further columns, which the table has. It names each image once.
    Raises:
        InvalidInput: ``invalid_images``: names the file and the fault.
    """

    folder: str | os.PathLike[str]
    shape: str | tuple[int, int, int]
    fit: Fit = "exact"
    labels: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        channels, height, width = self.sizes
        if channels not in _MODES or not (1 <= height <= _MAX_SIDE and 1 <= width <= _MAX_SIDE):
            _refuse(f"the shape {self.shape} is not valid; use 1 or 3 channels, and 1 to {_MAX_SIDE:,} pixels a side")
        if self.fit not in get_args(Fit):
            _refuse(f"fit is {self.fit!r}; use {', '.join(get_args(Fit))}")
        if not Path(self.folder).is_dir():
            _refuse(f"there is no folder {self.folder}")

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        if not isinstance(self.shape, str):
            return self.shape
        if not (match := re.fullmatch(r"(\d{1,6})x(\d{1,6})x(\d{1,6})", self.shape)):
            _refuse(f"the shape {self.shape!r} is not valid; write channels, height and width such as 3x64x64")
        channels, height, width = map(int, match.groups())
        return channels, height, width

    @property
    def columns(self) -> dict[str, dict[str, Any]]:
        """Declarations of the columns that are known without the images."""
        declared: dict[str, dict[str, Any]] = {
            "image": {"meaning": f"image {'x'.join(map(str, self.sizes))}", "min": 0, "max": 255}
        }
        if self.labels is None and _subfolders(Path(self.folder)):
            declared["label"] = {"dtype": "category"}
        return declared

    def save_npz(self, path: Path) -> None:
        """Write the table as an NPZ file. Memory holds one image at a time.

        Raises:
            InvalidInput: ``invalid_images``: an image or the file of labels is not valid, or Pillow is not installed.
        """
        files, columns = self._files()
        with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
            for name, values in columns.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, values, allow_pickle=False)
            with archive.open("image.npy", "w", force_zip64=True) as member:
                header = {"descr": "|u1", "fortran_order": False, "shape": (len(files), *self.sizes)}
                np.lib.format.write_array_header_1_0(member, header)
                for file in files:
                    member.write(self._pixels(file).tobytes())

    def _files(self) -> tuple[list[Path], dict[str, npt.NDArray[Any]]]:
        """The images in the order of the records, and the columns of labels."""
        folder = Path(self.folder)
        if self.labels is not None:
            return _labelled(folder, Path(self.labels))
        labels = _subfolders(folder)
        loose = _images(folder)
        if labels and loose:
            _refuse(f"{loose[0]} is in no folder of a label, and other images are; move it into one")
        files = [file for label in labels for file in _images(folder / label, within_label=True)] or loose
        if not files:
            _refuse(f"{folder} has no images; PNG and JPEG files are read")
        return files, {"label": np.array([file.parent.name for file in files])} if labels else {}

    def _pixels(self, file: Path) -> npt.NDArray[np.uint8]:
        """The array of an image: channels, height, width."""
        image_module, ops = _pillow()
        channels, height, width = self.sizes
        try:
            with warnings.catch_warnings():
                # Pillow warns of large images, which are refused below, before their pixels are read.
                warnings.simplefilter("ignore")
                opened = image_module.open(file, formats=("PNG", "JPEG"))
            with opened:
                self._check(file, opened)
                image = ops.exif_transpose(opened).convert(_MODES[channels])
        except (OSError, ValueError, SyntaxError, image_module.DecompressionBombError) as error:
            _refuse(f"{file} cannot be read as PNG or JPEG: {error}")
        if image.size != (width, height):
            if self.fit == "exact":
                found = f"{image.size[0]} pixels wide and {image.size[1]} high"
                _refuse(f"{file} is {found}, not {width} and {height}; pass fit='crop' or fit='stretch'")
            sampling = image_module.Resampling.BILINEAR
            scale = ops.fit if self.fit == "crop" else image_module.Image.resize
            image = scale(image, (width, height), sampling)
        values = np.asarray(image, np.uint8)
        return values[np.newaxis] if channels == 1 else values.transpose(2, 0, 1)

    def _check(self, file: Path, image: Any) -> None:
        if image.width * image.height > MAX_PIXELS:
            _refuse(f"{file} has {image.width:,} x {image.height:,} pixels; at most {MAX_PIXELS:,} are read")
        if getattr(image, "n_frames", 1) > 1:
            _refuse(f"{file} has several frames; save one of them")
        if image.mode.startswith(("I", "F")):
            _refuse(f"{file} has more than 8 bits for a channel, which would be cut; scale it to 8 bits first")


def _labelled(folder: Path, labels: Path) -> tuple[list[Path], dict[str, npt.NDArray[Any]]]:
    """The images in a CSV file, in its order, and its other columns."""
    try:
        with labels.open(newline="", encoding="utf-8-sig") as file:
            names, *rows = list(csv.reader(file, strict=True))
    except (OSError, UnicodeError, csv.Error, ValueError) as error:
        _refuse(f"the labels {labels} cannot be read as CSV: {error}")
    if "file" not in names or len(set(names)) != len(names) or "image" in names:
        _refuse(f"{labels} needs a column 'file' and others of different names, none of them 'image'")
    place, files = names.index("file"), []
    inner = [file for label in _subfolders(folder) for file in _images(folder / label, within_label=True)]
    there = {file.relative_to(folder).as_posix(): file for file in [*_images(folder), *inner]}
    for line, row in enumerate(rows, 2):
        if len(row) != len(names):
            _refuse(f"line {line} of {labels} has {len(row)} fields; the first line has {len(names)}")
        found = there.pop(row[place], None)
        if found is None:
            _refuse(f"line {line} of {labels}: {row[place][:200]!r} is not an image in {folder}, or is named twice")
        files.append(found)
    if there:
        _refuse(f"{next(iter(there))} is in {folder}, but not in {labels}; add a line or remove the file")
    if not files:
        _refuse(f"{labels} names no images")
    return files, {name: _typed([row[index] for row in rows]) for index, name in enumerate(names) if index != place}


def _typed(texts: Sequence[str]) -> npt.NDArray[Any]:
    """Texts as whole numbers or as numbers, if all of them are; an empty text among numbers is missing."""
    try:
        whole = [int(text) for text in texts]
        if [str(number) for number in whole] == list(texts) and max(map(abs, whole)) < 2**63:
            return np.array(whole, np.int64)
        return np.array(texts)
    except ValueError:
        pass
    try:
        numbers = [float(text or "nan") for text in texts]
    except ValueError:
        return np.array(texts)
    is_text = not any(texts) or any(re.match(r"[+-]?0\d", text) for text in texts)
    return np.array(texts if is_text else numbers)


def _subfolders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path, *, within_label: bool = False) -> list[Path]:
    """The images of a folder, without those of its folders. Hidden files are left out, and others refused."""
    found = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or (entry.is_dir() and not within_label):
            continue
        if entry.is_dir() or entry.suffix.lower() not in _SUFFIXES:
            _refuse(f"{entry} is not a PNG or JPEG file; convert, move or remove it")
        found.append(entry)
    return found


def _pillow() -> tuple[Any, Any]:
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError:
        _refuse("images are read with Pillow, which is not installed; run: pip install 'pygrid[images]'")
    return Image, ImageOps


def _refuse(why: str) -> NoReturn:
    raise InvalidInput(why, code=codes.INVALID_IMAGES) from None
