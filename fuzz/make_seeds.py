#!/usr/bin/env python3
"""Makes the seeds of the fuzz targets: small inputs of every kind, from which mutation begins. Needs Pillow.

What a fuzzer has found stays beside them by hand, under a name that says what it is.
"""

import io
import json
import struct
from pathlib import Path

from PIL import Image, ImageCms, TiffImagePlugin

FUZZ = Path(__file__).resolve().parent
ROOT = FUZZ.parent


def put(target: str, name: str, content: bytes | str) -> None:
    folder = FUZZ / "seeds" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


class Gguf:
    """Finds the end of a header, and the entries of its metadata."""

    SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        self.at = 8
        self.n_tensors, n_entries = self.numbers("<QQ")
        self.entries = {}
        for _ in range(n_entries):
            begin = self.at
            key = self.string()
            (kind,) = self.numbers("<I")
            self.skip(kind)
            self.entries[key.decode()] = self.data[begin : self.at]
        self.tensors_at = self.at
        for _ in range(self.n_tensors):
            self.string()
            (n_dims,) = self.numbers("<I")
            self.at += 8 * n_dims + 12
        self.header = self.data[: self.at]

    def numbers(self, form: str) -> tuple:
        values = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return values

    def string(self) -> bytes:
        (length,) = self.numbers("<Q")
        self.at += length
        return self.data[self.at - length : self.at]

    def skip(self, kind: int) -> None:
        if kind == 8:
            self.string()
        elif kind == 9:
            item, n = self.numbers("<IQ")
            for _ in range(n):
                self.skip(item)
        else:
            self.at += self.SIZES[kind]

    def without(self, prefix: str) -> bytes:
        """The header, short of some entries."""
        kept = [entry for key, entry in self.entries.items() if not key.startswith(prefix)]
        start = b"GGUF" + struct.pack("<IQQ", 3, self.n_tensors, len(kept))
        return start + b"".join(kept) + self.header[self.tensors_at :]


def entry(key: str, number: int) -> bytes:
    return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<IH", 2, number)


def headers() -> None:
    fixtures = ROOT / "tests" / "transformers" / "fixtures"
    for folder in sorted(path for path in fixtures.iterdir() if path.is_dir()):
        put("gguf", folder.name, Gguf(folder / "mmproj.gguf").header)
    for folder in ["llava15", "gemma3", "qwen3vl"]:
        put("gguf", f"{folder}-model", Gguf(fixtures / folder / "model.gguf").without("tokenizer."))
    model = Gguf(fixtures / "llava15" / "model.gguf").without("tokenizer.")
    n_entries = struct.unpack_from("<Q", model, 16)[0]
    parts = []
    for no in range(2):
        split = entry("split.no", no) + entry("split.count", 2) + entry("split.tensors.count", 0)
        parts.append(model[:16] + struct.pack("<Q", n_entries + 3) + split + model[24:])
    put("split", "two", struct.pack("<H", len(parts[0])) + parts[0] + parts[1])
    put("split", "one", struct.pack("<H", len(model)) + model)


def pictures() -> None:
    rgb = Image.new("RGB", (5, 3))
    rgb.putdata([(17 * i, 255 - 9 * i, 40 + i) for i in range(15)])
    alpha = rgb.convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize((5, 3)))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter

    def save(name: str, image: Image.Image, form: str, **options) -> None:
        file = io.BytesIO()
        image.save(file, form, **options)
        put("pictures", name, file.getvalue())

    for mode in ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"]:
        source = alpha if mode in ["LA", "RGBA"] else rgb
        image = source.convert("I").convert("I;16") if mode == "I;16" else source.convert(mode)
        save(f"{mode.replace(';', '')}.png", image, "PNG")
    save("profile.png", rgb, "PNG", icc_profile=profile)
    save("turned.png", rgb, "PNG", exif=exif)
    save("rgb.jpg", rgb, "JPEG", exif=exif, icc_profile=profile)
    save("progressive.jpg", rgb, "JPEG", progressive=True)
    save("grey.jpg", rgb.convert("L"), "JPEG")
    save("cmyk.jpg", rgb.convert("CMYK"), "JPEG")
    save("lossy.webp", rgb, "WEBP", exif=exif)
    save("lossless.webp", alpha, "WEBP", lossless=True, icc_profile=profile)
    save("moving.webp", rgb, "WEBP", save_all=True, append_images=[rgb.rotate(180)])
    save("still.gif", rgb.convert("P"), "GIF")
    save("moving.gif", alpha, "GIF", save_all=True, append_images=[alpha.rotate(180)])
    for mode in ["1", "L", "P", "RGB", "RGBA"]:
        save(f"{mode}.bmp", rgb.convert(mode), "BMP")
    for compression in ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"]:
        save(f"{compression}.tif", rgb, "TIFF", compression=compression)
    orientation = TiffImagePlugin.ImageFileDirectory_v2()
    orientation[0x0112] = 8
    save("turned.tif", rgb, "TIFF", tiffinfo=orientation)
    save("alpha.tif", alpha, "TIFF")
    save("float.tif", rgb.convert("F"), "TIFF")
    save("big.tif", rgb, "TIFF", big_tiff=True)
    put("pictures", "heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    put("pictures", "svg", '<svg xmlns="http://www.w3.org/2000/svg" width="3" height="2"/>')
    for path in sorted((ROOT / "tests" / "tiff").glob("*.tif")):
        put("pictures", path.name, path.read_bytes())


POLICIES = {
    "stages": 'policy = "visipruner"\nstages = ["shallow", "middle", "deep"]\nshallow_mid_layer = 2\nlayer_threshold = 0.5\n'
    'tokens_threshold = 0.1\ntokens_threshold_unit = "relative"\nmid_deep_layer = 3\nexit_layers = 2\nshallow_mask = "skip"\n',
    "fixed": 'policy = "fixed"\nfusion_layer = 1\nkeep = 10\nexit_from = 3\nevict_shallow_kv = true\n',
    "fastv": 'policy = "fastv"\nrank_layers = [2]\nkeep = ["50%"]\n',
    "pyramiddrop": 'policy = "pyramiddrop"\nrank_layers = [1, 2, 3]\nkeep = ["50%", "25%", 3]\n',
    "sparsevlm": 'policy = "sparsevlm"\nrank_layers = [1]\nkeep = ["12.5%"]\n',
    "composed": 'policy = "divprune+fastv"\nbudget = "50%"\nrank_layers = [2]\nkeep = [7]\n',
    "vtw": 'policy = "vtw"\nexit_from = 2\n',
    "random": 'policy = "random"\nbudget = 5\npolicy_seed = 7\n',
    "uniform": 'policy = "uniform"\nbudget = "25%"\n',
    "comment": "# only that\nlayer_threshold = nan\n",
    "name": "divprune+fastv",
    "empty": "",
}


def policies() -> None:
    for name, text in POLICIES.items():
        put("policies", name, text)
    shipped = ROOT / "models" / "tiny-llava-shapes.policy.toml"
    put("policies", "shipped", shipped.read_bytes())


def questions() -> None:
    lines = {
        1: {"id": "1", "image": "a.png", "question": "What?", "answers": ["a"], "scoring": "relaxed", "options": ["a", "b"]},
        3: {"question_id": 1, "image": "a.jpg", "text": "Is there a cat?", "category": "adversarial", "label": "yes"},
        4: {"question_id": "1", "image": "a.jpg", "text": "Which?", "category": "default", "answer": "a"},
        5: {"question_id": "1", "image": "a.jpg", "text": "Which?\nReference OCR token: a, b"},
        6: {"question_id": "code/1.png", "image": "a.png", "text": "Is it?\nAnswer yes or no."},
    }
    for which, line in lines.items():
        put("questions", f"lines-{which}", bytes([which]) + (json.dumps(line) + "\n").encode() * 2)
    demo = json.loads((ROOT / "models" / "demo" / "questions.json").read_text())
    put("questions", "pictures", bytes([2]) + json.dumps(demo[:1]).encode())
    science = [{"id": "1", "image": "a.png", "conversations": [
        {"from": "human", "value": "<image>\nWhich?\nA. a\nB. b"}, {"from": "gpt", "value": "The answer is B."}]}]
    put("questions", "science", bytes([7]) + json.dumps(science).encode())
    table = "index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\timage\n1\tWhich?\tnan\ta\tb\t\t\tA\tx\tiVBORw0KGgo=\n"
    put("questions", "table", bytes([8]) + table.encode())
    annotations = {"questions": {"1": {"answer": "a"}}, "data": [{"question_id": 1, "answers": ["a"] * 10}]}
    put("questions", "annotations", bytes([4]) + json.dumps(annotations).encode())
    store = [{"version": 1, "settings": {"model": "m"}}, {"policy": "off", "fields": {"policy": "off"}},
             {"id": "1", "policy": "off", "text": "a"}]
    put("questions", "store", b"s" + "\n".join(map(json.dumps, store)).encode() + b"\n")


TEMPLATES = {
    "plain": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:",
    "chatml": "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}<image>{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "macro": "{%- macro f(x, n=2) -%}{{ x|trim * n }}{%- endmacro -%}{% set ns = namespace(a='') %}{% for m in messages %}"
    "{% set ns.a = ns.a ~ m.content %}{% if loop.first %}{{ bos_token }}{% endif %}{% endfor %}{{ f(ns.a, 1) }}",
    "raises": "{{ raise_exception('no') }}",
    "python": "{% for m in messages[::-1] %}{{ m.content.split(' ')[-1].strip()|tojson }}{% endfor %}{{ strftime_now('%Y') }}",
    "endless": "{% for i in range(99999) %}{% for j in range(99999) %}{{ i }}{% endfor %}{% endfor %}",
}


def templates() -> None:
    for name, text in TEMPLATES.items():
        put("templates", name, text)
    known = json.loads((ROOT / "tests" / "transformers" / "fixtures" / "templates.json").read_text())
    for name, case in known["templates"].items():
        put("templates", name, case["template"])


PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def http() -> None:
    chat = {"messages": [{"role": "user", "content": "What is this?"}], "max_tokens": 2}
    picture = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": PIXEL}}, {"type": "text", "text": "What?"}]}], "max_tokens": 2,
        "visipruner": {"policy": "fixed", "fusion_layer": 2, "keep": 3}, "logprobs": True, "top_logprobs": 2}
    schema = {**chat, "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {
        "type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}}}
    grammar = {**chat, "grammar": 'root ::= "a" | [b-d]+ root'}
    sampling = {**chat, "temperature": 0.5, "top_p": 0.9, "top_k": 3, "min_p": 0.1, "seed": 1, "stop": ["a", "b"], "stream": True,
                "frequency_penalty": 1, "presence_penalty": -1, "logit_bias": {"5": -100}, "stream_options": {"include_usage": True}}
    turns = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
                          {"role": "user", "content": "c"}], "model": "tiny:off", "max_tokens": 1}
    for name, body in {"chat": chat, "picture": picture, "schema": schema, "grammar": grammar, "sampling": sampling,
                       "turns": turns}.items():
        for which in [0, 1, 4]:
            put("http", f"{name}-{which}", bytes([which]) + json.dumps(body).encode())
    put("http", "tokenize", bytes([2]) + json.dumps({"content": "a <image> b", "add_special": True, "with_pieces": True}).encode())
    put("http", "detokenize", bytes([3]) + json.dumps({"tokens": [1, 5, 99999]}).encode())
    put("http", "completions", bytes([5]) + json.dumps({"prompt": "a", "max_tokens": 2, "stop": "b"}).encode())
    put("http", "no-json", bytes([4]) + b"{")


def calls() -> None:
    put("calls", "ask", bytes([0, 0, 9, 1, 0, 1, 0, 8, 1, 0, 8, 9, 5, 0]))
    put("calls", "all", bytes(range(128)))


if __name__ == "__main__":
    headers()
    pictures()
    policies()
    questions()
    templates()
    http()
    calls()
