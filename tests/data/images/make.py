#!/usr/bin/env python3
"""Makes the images of this folder and expected.safetensors: what Pillow decodes and resizes (test_images.cpp compares).

Needs Pillow, numpy and safetensors: python3 tests/data/images/make.py
"""
import os
import struct
import zlib

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

here = os.path.dirname(os.path.abspath(__file__))
expected = {}
rng = np.random.default_rng(1)


def smooth(h, w, c):
    """Gentle waves with a little noise: a picture that JPEG can hold."""
    y, x = np.mgrid[0:h, 0:w]
    planes = [128 + 90 * np.sin(x / (3 + k) + k) * np.cos(y / (4 + k)) for k in range(c)]
    return np.clip(np.stack(planes, -1) + rng.normal(0, 3, (h, w, c)), 0, 255).astype(np.uint8)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_png(name, rows, width, height, depth, colour, interlaced=0, extra=b""):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + r for r in rows), 9)) + chunk(b"IEND", b"")
    with open(os.path.join(here, name), "wb") as f:
        f.write(b"\x89PNG\r\n\x1a\n" + body)


def keep(name, array):
    expected[name] = np.ascontiguousarray(array if array.ndim == 3 else array[..., None]).astype(np.uint8)


def save(name, image, **options):
    image.save(os.path.join(here, name), **options)


rgb, rgba, gray = smooth(13, 17, 3), smooth(13, 17, 4), smooth(13, 17, 1)[..., 0]
save("rgb8.png", Image.fromarray(rgb))
keep("rgb8.png", rgb)
save("rgba8.png", Image.fromarray(rgba))
keep("rgba8.png", rgba)
save("gray8.png", Image.fromarray(gray))
keep("gray8.png", gray)
save("gray_alpha8.png", Image.fromarray(rgba[..., :2], "LA"))
keep("gray_alpha8.png", rgba[..., :2])
bits = gray > 128
save("gray1.png", Image.fromarray(bits))
keep("gray1.png", bits * 255)
palette = Image.fromarray(rgb).quantize(7)
save("palette.png", palette)
keep("palette.png", np.asarray(palette.convert("RGB")))
save("palette_alpha.png", palette, transparency=bytes([0, 80, 255, 255, 255, 255, 255]))
keep("palette_alpha.png", np.asarray(Image.open(os.path.join(here, "palette_alpha.png")).convert("RGBA")))

wide = rng.integers(0, 65536, (5, 6, 3)).astype(np.uint16)
write_png("rgb16.png", [r.astype(">u2").tobytes() for r in wide], 6, 5, 16, 2)
keep("rgb16.png", np.round(wide / 257))
write_png("gray16.png", [r[:, 0].astype(">u2").tobytes() for r in wide], 6, 5, 16, 0)
keep("gray16.png", np.round(wide[..., 0] / 257))

rows = []
for y0, x0, dy, dx in [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]:   # Adam7
    rows += [r.tobytes() for r in rgb[y0::dy, x0::dx] if r.size]
write_png("interlaced.png", rows, 17, 13, 8, 2, 1)
keep("interlaced.png", rgb)


def save_jpeg(name, array, **options):
    save(name, Image.fromarray(array, options.pop("mode", None)), **options)
    image = Image.open(os.path.join(here, name))
    keep(name, np.asarray(image.convert("RGB") if image.mode == "CMYK" else image))


save_jpeg("rgb444.jpg", smooth(21, 19, 3), quality=90, subsampling=0)
save_jpeg("rgb420.jpg", smooth(21, 19, 3), quality=90, subsampling=2)
save_jpeg("progressive.jpg", smooth(21, 19, 3), quality=80, progressive=True)
save_jpeg("gray.jpg", smooth(21, 19, 1)[..., 0], quality=90)
save_jpeg("cmyk.jpg", smooth(21, 19, 4), quality=95, mode="CMYK")

picture = smooth(47, 61, 3)
expected["picture"] = picture
for h, w in [(47, 61), (20, 30), (8, 5), (90, 100), (47, 20), (1, 1), (100, 7)]:
    expected[f"antialiased {h}x{w}"] = np.asarray(Image.fromarray(picture).resize((w, h), Image.BILINEAR))
try:
    import torch

    planes = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].double()
    for h, w in [(20, 30), (8, 5), (90, 100), (1, 1)]:
        out = torch.nn.functional.interpolate(planes, size=(h, w), mode="bilinear", align_corners=False)
        expected[f"bilinear {h}x{w}"] = np.ascontiguousarray(np.floor(out[0].permute(1, 2, 0).numpy() + 0.5).astype(np.uint8))
except ImportError:
    raise SystemExit("PyTorch is needed for the plain bilinear resize")
expected["gray of picture"] = np.asarray(Image.fromarray(picture).convert("L"))[..., None]
save_file({k: np.ascontiguousarray(v) for k, v in expected.items()}, os.path.join(here, "expected.safetensors"))
