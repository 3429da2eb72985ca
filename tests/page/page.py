"""The page as those who use it know it: what is pressed, and what is to be seen."""

import json
import re
import time
from pathlib import Path

DEMO = Path(__file__).resolve().parents[2] / "models/demo"
SHAPES = DEMO / "shapes.png"
# What the browser says of an answer that is no 200; those are looked at by themselves.
EXPECTED = re.compile(r"Failed to load resource")

# Keeps what the server streams, beside the page that reads it; null where it broke off.
NOTE_STREAMS = """
    window.streams = [];
    const plain = window.fetch;
    window.fetch = async (path, ...more) => {
        const response = await plain(path, ...more);
        if (path.endsWith("/chat/completions") && response.ok) streams.push(response.clone().text().catch(() => null));
        return response;
    };
"""


class Talk:
    def __init__(self, page, url):
        self.page, self.url = page, url
        self.complaints, self.addresses, self.bodies = [], [], []
        self.more = {}
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._console)
        page.on("request", lambda request: self.addresses.append(request.url))
        page.add_init_script(NOTE_STREAMS)
        page.route("**/v1/chat/completions", self._asked)
        page.goto(url)

    def _console(self, message):
        if message.type in ("error", "warning") and not EXPECTED.search(message.text):
            self.complaints.append(message.text)

    def _asked(self, route):
        """Notes what is asked, and adds fields that the page has no switch for."""
        body = route.request.post_data_json
        self.bodies.append(body)
        route.continue_(post_data=json.dumps({**body, **self.more}))

    def wait_until_ready(self):
        self.page.wait_for_selector("#only-model:not(:empty), #models:not([hidden])")

    def add(self, *files):
        before = self.page.locator("#attached li").count()
        self.page.set_input_files("#files", [str(file) if isinstance(file, Path) else file for file in files])
        self.page.locator("#attached li").nth(before + len(files) - 1).wait_for()

    def begin(self, question):
        self.page.fill("#question", question)
        self.page.press("#question", "Enter")

    def wait(self):
        self.page.wait_for_selector("#send:not([hidden])", timeout=60_000)

    def ask(self, question):
        """Asks, and waits for the answers: the reports that came with them."""
        self.page.evaluate("streams.length = 0")
        self.begin(question)
        self.wait()
        return [last_report(stream) for stream in self.page.evaluate("Promise.all(streams)") if stream is not None]

    @property
    def answers(self):
        """Those to the last question."""
        return self.page.locator(".turn").last.locator(".answer .words").all_inner_texts()

    @property
    def feet(self):
        return self.page.locator(".turn").last.locator(".foot").all_inner_texts()

    @property
    def errors(self):
        return self.page.locator(".turn").last.locator(".answer .error:visible").all_inner_texts()

    @property
    def layer(self):
        return self.page.locator("#layer")

    def dropped(self, i=0):
        """The cells of the i-th overlay that are dimmed, as numbers of tokens."""
        overlay = self.page.locator("#seen-runs svg").nth(i)
        columns = int(overlay.get_attribute("viewBox").split()[2])
        path = overlay.locator(".dropped").get_attribute("d") or ""
        return {int(y) * columns + int(x) for x, y in re.findall(r"M(\d+) (\d+)", path)}

    def overflows(self):
        return self.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")


def until(holds, what, seconds=10):
    """Waits for something. The browser's own way to wait for a function is eval, which the page forbids."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.02)


def last_report(stream):
    chunks = [json.loads(line[5:]) for line in stream.splitlines() if line.startswith("data:") and "[DONE]" not in line]
    return [chunk["visipruner"] for chunk in chunks if "visipruner" in chunk][-1]


def dropped_in(report, i_picture, il):
    """What a report says of a layer: the tokens of a picture that it had no more."""
    picture = report["pictures"][i_picture]
    tokens = set(range(picture["rows"][1]))
    left = set(tokens)
    for drop, kept in zip(report["drops"], picture["kept"]):
        if drop["after_layer"] is None or il > drop["after_layer"]:
            left = set(kept)
    if report["exit_layer"] is not None and il > report["exit_layer"]:
        left = set()
    return tokens - left


def rows_in(report, il):
    return next(rows for first, last, rows in report["layer_rows"] if first <= il <= last)
