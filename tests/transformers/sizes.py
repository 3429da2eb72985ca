"""What transformers makes of pictures of many sizes, at the figures of published checkpoints: `fixtures/sizes.json`."""

import json

import numpy as np
import transformers as tf
from transformers.image_processing_utils import get_patch_output_size, select_best_resolution
from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas
from transformers.models.llava_next.modeling_llava_next import unpad_image
from transformers.models.pixtral.image_processing_pixtral import get_resize_output_image_size
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

SIZES = [
    (1, 1), (1, 150), (150, 1), (13, 17), (14, 14), (27, 29), (28, 28), (42, 42), (56, 56), (70, 42), (98, 154), (300, 300),
    (336, 336), (337, 336), (448, 448), (449, 448), (512, 512), (560, 420), (672, 336), (336, 672), (640, 480), (480, 640),
    (500, 200), (200, 640), (672, 672), (800, 600), (600, 800), (999, 1000), (1000, 999), (1008, 336), (1024, 768),
    (1080, 1920), (1120, 1120), (1280, 720), (1344, 448), (1536, 1000), (1600, 1200), (1920, 1080), (2000, 333), (333, 2000),
    (2048, 1536), (2049, 2047), (3000, 4000), (4032, 3024), (4999, 700), (700, 4999), (4100, 5000), (8000, 6000)]
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]


def qwen(factor, min_pixels, max_pixels):
    def fitted(width, height):
        h, w = smart_resize(height, width, factor, min_pixels, max_pixels)
        return {"width": w, "height": h}
    return fitted


def llava16(width, height):
    """`resized`: the picture in its canvas; `padding`: left, top; `patches`: columns and rows of the map without padding."""
    canvas = select_best_resolution((height, width), PINPOINTS)
    new_height, new_width = get_patch_output_size(np.zeros((height, width, 1), np.uint8), canvas, "channels_last")
    grid = unpad_image(np.zeros((1, canvas[0] // 14, canvas[1] // 14)), (height, width))
    return {"canvas": [canvas[1], canvas[0]], "resized": [new_width, new_height],
            "padding": [(canvas[1] - new_width) // 2, (canvas[0] - new_height) // 2],
            "patches": [grid.shape[2], grid.shape[1]], "n_rows": 576 + (grid.shape[2] + 1) * grid.shape[1]}


def internvl(width, height):
    columns, rows = get_optimal_tiled_canvas((height, width), (448, 448), 1, 12)
    return {"columns": columns, "rows": rows, "thumbnail": columns * rows > 1}


def smolvlm(tile, longest_edge):
    """`resized`: first to the longest edge, then to whole tiles."""
    processor = tf.Idefics3ImageProcessor(size={"longest_edge": longest_edge}, max_image_size={"longest_edge": tile})
    steps = []

    def note(image, size, **options):
        steps.append((size["width"], size["height"]))
        return image

    def fitted(width, height):
        steps.clear()
        step = tf.models.idefics3.image_processing_idefics3.get_resize_output_image_size
        first = step(np.zeros((height, width, 1), np.uint8), longest_edge, "channels_last")
        processor.resize = note
        processor.resize_for_vision_encoder(np.zeros((*first, 1), np.uint8), tile, input_data_format="channels_last")
        return {"first": [first[1], first[0]], "tiled": list(steps[-1]),
                "columns": steps[-1][0] // tile, "rows": steps[-1][1] // tile}
    return fitted


def pixtral(width, height):
    size = get_resize_output_image_size(np.zeros((height, width, 3), np.uint8), (1024, 1024), (16, 16), "channels_last")
    return {"width": size[1], "height": size[0]}


FAMILIES = {
    "qwen2vl": qwen(28, 3136, 12845056), "qwen3vl": qwen(32, 65536, 16777216), "llava16": llava16, "internvl": internvl,
    "smolvlm": smolvlm(512, 2048), "pixtral": pixtral}


def write(path):
    table = {name: [{"picture": size, **fitted(*size)} for size in SIZES] for name, fitted in FAMILIES.items()}
    lines = [f'"{name}": [\n' + ",\n".join(json.dumps(row) for row in rows) + "\n]" for name, rows in table.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
