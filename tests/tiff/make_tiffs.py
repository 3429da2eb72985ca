"""Small TIFF files of the kinds that src/cli/image/tiff.rs decodes, by two writers that know nothing of it, and beside each
the picture that Pillow's own reader (libtiff) sees in it, as PNG.

    pip install pillow==12.0.0 tifffile==2025.10.16 numpy==2.4.6 && python make_tiffs.py"""

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

HERE = Path(__file__).resolve().parent
WIDTH, HEIGHT = 19, 11  # no multiples of 8


def colours():
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x * 13, y * 23, (x * 7 + y * 31) % 256], -1).astype(np.uint8)


def save(name, picture, **how):
    picture.save(HERE / f"{name}.tif", **how)
    Image.open(HERE / f"{name}.tif").convert("RGB").save(HERE / f"{name}.png", optimize=True)


def save_array(name, array, expected, **how):
    tifffile.imwrite(HERE / f"{name}.tif", array, **how)
    Image.fromarray(expected).convert("RGB").save(HERE / f"{name}.png", optimize=True)


def main():
    picture = Image.fromarray(colours())
    grey = np.asarray(picture.convert("L"))
    palette = picture.quantize(200)
    save("palette", palette)
    save("palette-lzw", palette, compression="tiff_lzw")
    numbers, table = np.asarray(palette), np.array(palette.getpalette("RGB") + [0] * 768, np.uint16)[:768].reshape(-1, 3).T
    seen = np.asarray(palette.convert("RGB"))
    for name, how in {"palette-big-endian": dict(byteorder=">"), "palette-bigtiff": dict(bigtiff=True),
                      "palette-tiles": dict(tile=(16, 16), compression="zlib")}.items():
        save_array(name, numbers, seen, photometric="palette", colormap=table * 257, **how)
    save("ycbcr-jpeg", picture.convert("YCbCr"), compression="jpeg", quality=95)
    save_array("ycbcr", np.asarray(picture.convert("YCbCr")), np.asarray(picture.convert("YCbCr").convert("RGB")),
               photometric="ycbcr", subsampling=(1, 1))
    save("float-bytes", picture.convert("L").convert("F"))
    units = grey / 255
    save_array("float16", units.astype(np.float16), grey, photometric="minisblack")
    save_array("float32", units.astype(np.float32), grey, photometric="minisblack", compression="zlib")
    save_array("float64", units.astype(np.float64), grey, photometric="minisblack")
    save_array("float-white-is-0", (1 - units).astype(np.float32), grey, photometric="miniswhite")


if __name__ == "__main__":
    main()
