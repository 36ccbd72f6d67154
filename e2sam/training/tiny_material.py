"""Collects silhouettes and photographs for the training scenes of `tiny` from folders of pictures.

One in ten silhouettes, and the photographs that are named, are held out for evaluation.
The result is two files, `train.npz` and `held_out.npz`, which `e2sam.data.synthetic.Material.load` reads.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

__all__ = ["collect_material"]

SPRITE_SIDE = 160
PHOTO_SIDE = 1024
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
logger = logging.getLogger(__name__)


def collect_material(
    silhouettes: Sequence[Path], photographs: Sequence[Path], out: Path, held_out: Sequence[str] = ()
) -> dict[str, int]:
    """Write `train.npz` and `held_out.npz` into `out`.

    Parameters
    ----------
    silhouettes, photographs
        Folders or files of PNG, JPEG and WebP pictures; of the silhouettes, those with transparency are used.
    out
        Folder of the result; made if need be.
    held_out
        Words: a photograph whose path contains one of them is held out. Sprites are held out by the hash of their path.

    Returns
    -------
    dict
        Number of sprites and photographs in each file.
    """
    out.mkdir(parents=True, exist_ok=True)
    sprites: dict[str, list[NDArray[np.uint8]]] = {"train": [], "held_out": []}
    photos: dict[str, list[NDArray[np.uint8]]] = {"train": [], "held_out": []}
    for path in _pictures(silhouettes):
        pixels = _read(path)
        if pixels is not None and pixels.shape[2] == 4:
            digest = hashlib.sha256("/".join(path.parts[-3:]).encode()).digest()
            sprites["held_out" if digest[0] % 10 == 0 else "train"].append(pixels)
    for path in _pictures(photographs):
        pixels = _read(path)
        if pixels is not None:
            photos["held_out" if any(word in str(path) for word in held_out) else "train"].append(pixels[..., :3])
    for part in ("train", "held_out"):
        _write(out / f"{part}.npz", sprites[part], photos[part])
    return {
        f"{part}_{kind}": len(group[part])
        for part in sprites
        for kind, group in (("sprites", sprites), ("photos", photos))
    }


def _pictures(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders:
        if folder.is_file():
            yield folder
        else:
            yield from sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def _read(path: Path) -> NDArray[np.uint8] | None:
    """RGBA sprite (h, w, 4) or RGB photograph (h, w, 3), or None where the picture is of no use."""
    try:
        with Image.open(path) as picture:
            if picture.mode in ("RGBA", "LA", "P") and ("A" in picture.mode or "transparency" in picture.info):
                return _sprite(picture)
            if min(picture.size) < 256:
                return None
            rgb = picture.convert("RGB")
            rgb.thumbnail((PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.BOX)
            return np.asarray(rgb, np.uint8)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError) as error:
        logger.info("skipped %s: %s", path, error)
        return None


def _sprite(picture: Image.Image) -> NDArray[np.uint8] | None:
    if min(picture.size) < 32 or max(picture.size) > 6000:
        return None
    rgba = picture.convert("RGBA")
    rgba.thumbnail((SPRITE_SIDE * 2, SPRITE_SIDE * 2), Image.Resampling.BOX)
    box = rgba.getchannel("A").getbbox()
    if box is None:
        return None
    rgba = rgba.crop(box)
    rgba.thumbnail((SPRITE_SIDE, SPRITE_SIDE), Image.Resampling.BOX)
    pixels = np.asarray(rgba, np.uint8)
    share = float((pixels[..., 3] > 127).mean())
    is_useful = 0.06 < share < 0.97 and min(pixels.shape[:2]) >= 12
    return pixels if is_useful else None


def _write(path: Path, sprites: list[NDArray[np.uint8]], photos: list[NDArray[np.uint8]]) -> None:
    """One file: pixels of all pictures end to end, and their shapes."""
    temporary = path.with_suffix(".tmp.npz")
    np.savez(
        temporary,
        sprite_pixels=np.concatenate([sprite.reshape(-1) for sprite in sprites] or [np.zeros(0, np.uint8)]),
        sprite_shapes=np.array([sprite.shape[:2] for sprite in sprites], np.int32).reshape(-1, 2),
        photo_pixels=np.concatenate([photo.reshape(-1) for photo in photos] or [np.zeros(0, np.uint8)]),
        photo_shapes=np.array([photo.shape[:2] for photo in photos], np.int32).reshape(-1, 2),
    )
    temporary.replace(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python -m e2sam.training.tiny_material --silhouettes PICTURES --out material",
    )
    parser.add_argument("--silhouettes", nargs="*", default=[], type=Path, help="folders or files of pictures")
    parser.add_argument("--photographs", nargs="*", default=[], type=Path, help="folders or files of pictures")
    parser.add_argument("--out", required=True, type=Path, help="folder for train.npz and held_out.npz")
    parser.add_argument("--held-out", nargs="*", default=[], help="photographs whose path contains one of these words")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logger.info("%s", collect_material(options.silhouettes, options.photographs, options.out, options.held_out))


if __name__ == "__main__":
    main()
