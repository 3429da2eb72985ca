"""The page of `visipruner serve` in a real browser, against a real server (`make page-check`).

VISIPRUNER names the program (target/release/visipruner), CHROMIUM the browser (that of the PATH), SCREENSHOTS the folder
for pictures of the page (target/page/screenshots)."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from page import Talk

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("VISIPRUNER", str(ROOT / "target/release/visipruner"))
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
SCREENSHOTS = Path(os.environ.get("SCREENSHOTS", ROOT / "target/page/screenshots"))
MODEL = ROOT / "models/tiny-llava-shapes-f16.gguf"
MMPROJ = ROOT / "models/tiny-llava-shapes-mmproj-f16.gguf"
# A camera that shows a test picture, and that is granted.
FLAGS = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]


class Server:
    """A server of its own port. `url` is where its page is."""

    def __init__(self, *flags):
        self.process = subprocess.Popen(
            [PROGRAM, "serve", "--port", "0", *map(str, flags)], stderr=subprocess.PIPE, text=True
        )
        said = []
        for line in self.process.stderr:
            said.append(line)
            if found := re.search(r"listening at (http://\S+)", line):
                self.url = found[1].rstrip("/") + "/"
                return
        raise RuntimeError("the server does not start: " + "".join(said))

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stderr.close()


@pytest.fixture
def serve():
    """Starts servers, which end with the test."""
    servers = []

    def start(*flags):
        servers.append(Server(*flags))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture(scope="session")
def server():
    """One server with the model that ships, for all tests that leave it alone."""
    server = Server("-m", MODEL, "--mmproj", MMPROJ)
    yield server
    server.kill()


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        pytest.exit("there is no chromium: apt-get install chromium, or name one with CHROMIUM", returncode=1)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=FLAGS + (["--no-sandbox"] if os.geteuid() == 0 else [])
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Opens the page of a server. What it complains of in its console is an error."""
    opened = []

    def open_it(url, width=1200, height=800, scheme="light", is_ready=True):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        opened.append(Talk(context.new_page(), url))
        if is_ready:
            opened[-1].wait_until_ready()
        return opened[-1]

    yield open_it
    complaints = [complaint for talk in opened for complaint in talk.complaints]
    elsewhere = [
        address for talk in opened for address in talk.addresses if not address.startswith(("data:", talk.url))
    ]
    for talk in opened:
        talk.page.context.close()
    assert complaints == []
    assert elsewhere == []


@pytest.fixture
def talk(server, open_page):
    """The page, ready for a question."""
    return open_page(server.url)


@pytest.fixture(scope="session")
def screenshots():
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    return SCREENSHOTS
