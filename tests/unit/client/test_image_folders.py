"""Folders of images as tables.

Should happen: PNG and JPEG files become arrays of one shape, with the labels of their folders or of a file.
Should not happen: an image is cut, stretched or left out without being asked for; a file that unpacks to too much is
unpacked.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pygrid.client import ImageFolder
from pygrid.errors import InvalidInput
from support.sdk import owner_of, running_domain

GENERATOR = np.random.default_rng(0)


def save(path: Path, values: np.ndarray[Any, Any], **options: Any) -> np.ndarray[Any, Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)
    return values


def pixels(*shape: int) -> np.ndarray[Any, Any]:
    return GENERATOR.integers(0, 256, shape, dtype=np.uint8)


def table(source: ImageFolder, folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    source.save_npz(folder / "out.npz")
    with np.load(folder / "out.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    folder = tmp_path / "pets"
    save(folder / "dog" / "1.PNG", np.full((4, 6, 3), 7, np.uint8))
    save(folder / "cat" / "b.png", np.full((4, 6, 3), 8, np.uint8))
    save(folder / "cat" / "a.jpg", np.full((4, 6, 3), 9, np.uint8))
    (folder / ".DS_Store").write_bytes(b"\0")
    return folder


def test_folders_are_labels_and_pixels_stay_as_they_are(tmp_path: Path) -> None:
    wanted = [save(tmp_path / "p" / name, pixels(5, 3, 3)) for name in ("a/1.png", "a/2.png", "b/0.png")]
    arrays = table(ImageFolder(tmp_path / "p", "3x5x3"), tmp_path)
    assert list(arrays) == ["label", "image"]
    assert arrays["label"].tolist() == ["a", "a", "b"]
    np.testing.assert_array_equal(arrays["image"], np.stack(wanted).transpose(0, 3, 1, 2))


def test_gray_images_without_labels(tmp_path: Path) -> None:
    wanted = [save(tmp_path / "p" / f"{name}.png", pixels(4, 4)) for name in "ab"]
    source = ImageFolder(tmp_path / "p", (1, 4, 4))
    arrays = table(source, tmp_path)
    assert list(arrays) == list(source.columns) == ["image"]
    np.testing.assert_array_equal(arrays["image"], np.stack(wanted)[:, np.newaxis])


def test_labels_of_a_file(pets: Path, tmp_path: Path) -> None:
    text = "age,file,patient,score\n3,cat/b.png,007,\n5,dog/1.PNG,008,1.5\n4,cat/a.jpg,007,2\n"
    (tmp_path / "labels.csv").write_text(text)
    arrays = table(ImageFolder(pets, "3x4x6", labels=tmp_path / "labels.csv"), tmp_path)
    assert arrays["image"][:, 0, 0, 0].tolist() == [8, 7, 9]
    assert (arrays["age"].tolist(), arrays["patient"].tolist()) == ([3, 5, 4], ["007", "008", "007"])
    np.testing.assert_array_equal(arrays["score"], [np.nan, 1.5, 2])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("age,file\n3,cat/b.png\n", "not in"),
        ("age,file\n3,cat/b.png\n4,cat/b.png\n", "line 3 .* named twice"),
        ("age,file\n3,../secret.png\n", "line 2 .* is not an image in"),
        ("age,file\n3\n", "line 2 .* has 1 fields"),
        ("age\n3\n", "needs a column 'file'"),
        ("", "cannot be read as CSV"),
    ],
)
def test_a_file_of_labels_that_does_not_fit(text: str, why: str, pets: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(InvalidInput, match=why):
        table(ImageFolder(pets, "3x4x6", labels=tmp_path / "labels.csv"), tmp_path)


@pytest.mark.parametrize(("fit", "columns"), [("crop", slice(2, 4)), ("stretch", slice(0, 6))])
def test_images_of_another_size(fit: Any, columns: slice, tmp_path: Path) -> None:
    values = np.zeros((2, 6, 3), np.uint8)
    values[:, columns] = 200
    save(tmp_path / "p" / "wide.png", values)
    with pytest.raises(InvalidInput, match=r"wide.png is 6 pixels wide and 2 high, not 2 and 2; pass fit="):
        table(ImageFolder(tmp_path / "p", "3x2x2"), tmp_path)
    assert (table(ImageFolder(tmp_path / "p", "3x2x2", fit=fit), tmp_path)["image"] == 200).all()


def test_a_photo_lies_as_its_camera_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    save(tmp_path / "p" / "a.jpg", np.zeros((4, 2, 3), np.uint8), exif=exif)
    assert table(ImageFolder(tmp_path / "p", "3x2x4"), tmp_path)["image"].shape == (1, 3, 2, 4)


def bomb(width: int, height: int) -> bytes:
    """A PNG file whose head claims this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def save_animation(path: Path) -> None:
    frames = [Image.fromarray(pixels(2, 2)) for _ in range(2)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: path.write_bytes(bomb(9000, 9000)), "9,000 x 9,000 pixels; at most"),
        (lambda path: path.write_bytes(bomb(60_000, 60_000)), "exceeds limit"),
        (lambda path: path.write_bytes(bomb(4, 4)[:45]), "cannot be read"),
        (lambda path: path.write_bytes(b"GIF89a"), "cannot be read"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (save_animation, "several frames"),
        (lambda path: Image.fromarray(np.full((2, 2), 999, np.uint16)).save(path), "more than 8 bits"),
        (lambda path: path.with_suffix(".tif").write_bytes(b"II*\0"), "not a PNG or JPEG file"),
        (lambda path: (path.parent / "deep").mkdir(), "not a PNG or JPEG file"),
    ],
)
def test_files_that_are_refused_by_name(make: Any, why: str, tmp_path: Path) -> None:
    (tmp_path / "p" / "a").mkdir(parents=True)
    save(tmp_path / "p" / "a" / "0.png", pixels(2, 2))
    make(tmp_path / "p" / "a" / "odd.png")
    with pytest.raises(InvalidInput, match=why) as refused:
        table(ImageFolder(tmp_path / "p", "1x2x2"), tmp_path)
    assert refused.value.code == "invalid_images"
    assert "odd" in refused.value.detail or "deep" in refused.value.detail


@pytest.mark.parametrize(
    ("folder", "options", "why"),
    [
        ("", {"shape": "2x4x4"}, "1 or 3 channels"),
        ("", {"shape": "4x4"}, "write channels"),
        ("", {"shape": "1x0x4"}, "1 to 4,096 pixels"),
        ("", {"shape": "1x4x4", "fit": "pad"}, "use exact, crop, stretch"),
        ("nowhere", {"shape": "1x4x4"}, "there is no folder"),
    ],
)
def test_arguments_that_are_not_valid(folder: str, options: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=why):
        ImageFolder(tmp_path / folder, **options)


def test_folders_that_are_not_tables(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="has no images"):
        table(ImageFolder(tmp_path, "1x2x2"), tmp_path)
    save(tmp_path / "p" / "a" / "0.png", pixels(2, 2))
    save(tmp_path / "p" / "1.png", pixels(2, 2))
    with pytest.raises(InvalidInput, match="is in no folder of a label"):
        table(ImageFolder(tmp_path / "p", "1x2x2"), tmp_path)


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with running_domain(tmp_path_factory.mktemp("domain")) as transport:
        yield owner_of(transport)


def test_from_a_folder_to_a_dataset(domain: Any, pets: Path) -> None:
    columns = {"label": "category,categories=cat|dog"}
    source = ImageFolder(pets, "3x2x3", fit="stretch")
    pictures = domain.datasets.upload("pets", source, columns=columns, prepare={"x": "image,standardize=0..1"})
    label, image, x = pictures.schema.columns
    assert (image.dtype, image.shape, image.meaning, image.max) == ("uint8", (3, 2, 3), "image 3x2x3", 255)
    assert (label.dtype, label.declared) == ("category", True)
    assert (x.dtype, x.shape, x.max) == ("float32", (3, 2, 3), 1)
    assert pictures.preview().columns["label"] == ["cat", "cat", "dog"]
    assert pictures.new_version(source).version == 2
    found = domain.datasets.dry_run(source).schema.find("label")
    assert (found.dtype, found.declared) == ("category", False), "names of folders are not published by themselves"
    with pytest.raises(InvalidInput, match="is a folder"):
        domain.datasets.upload("again", pets)
