"""A server under test: the program on the model that ships, at a free port."""

import argparse
import base64
import http.client
import json
import os
import re
import subprocess
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models/tiny-llava-shapes-f16.gguf"
MMPROJ = ROOT / "models/tiny-llava-shapes-mmproj-f16.gguf"
DEMO = ROOT / "models/demo"
START_S = 60


def program(given=None):
    """The program: the path given, that of the variable VISIPRUNER, or what cargo built last."""
    built = [ROOT / "target" / profile / "visipruner" for profile in ("release", "debug")]
    built = sorted((path for path in built if path.exists()), key=lambda path: -path.stat().st_mtime)
    found = [Path(path) for path in (given, os.environ.get("VISIPRUNER")) if path] + built
    if not found or not found[0].exists():
        raise SystemExit("there is no visipruner: build it, or name it as argument or in the variable VISIPRUNER")
    return found[0].resolve()


def arguments(description, **numbers):
    """The command line of a script: the program, and numbers with their defaults."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("visipruner", nargs="?", help="the program [default: $VISIPRUNER, or what cargo built last]")
    for name, (default, text) in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} [default: {default}]")
    given = parser.parse_args()
    given.visipruner = program(given.visipruner)
    return given


def picture_url(name):
    return data_url((DEMO / name).read_bytes())


def data_url(content, kind="image/png"):
    return f"data:{kind};base64," + base64.b64encode(content).decode()


def user(text, *urls):
    """A user's message, its pictures first."""
    pictures = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"role": "user", "content": [*pictures, {"type": "text", "text": text}] if urls else text}


class Server:
    """A process that serves. Used as a context, it has ended afterwards; what it wrote is in `log`."""

    def __init__(self, path, *flags, model=("-m", MODEL, "--mmproj", MMPROJ), api_key=None):
        self.command = [str(word) for word in (path, "serve", *model, "--port", 0, *flags)]
        if api_key:
            self.command += ["--api-key", api_key]
        self.lines = []
        self.api_key = api_key

    def __enter__(self):
        env = {name: value for name, value in os.environ.items() if name != "VISIPRUNER_API_KEY"}
        self.process = subprocess.Popen(self.command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=env)
        self.listening, self.loaded = threading.Event(), threading.Event()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        if not self.listening.wait(START_S):
            self.process.kill()
            raise SystemExit(f"the server does not start:\n{self.log}")
        until = time.monotonic() + START_S
        while self.get("/health")[0] != 200:
            if time.monotonic() > until or not self.is_alive():
                self.process.kill()
                raise SystemExit(f"the model is not loaded:\n{self.log}")
            time.sleep(0.05)
        return self

    def read(self):
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.search(r"listening at http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
                self.listening.set()
        self.listening.set()

    def __exit__(self, *_):
        if self.is_alive():
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.reader.join(5)

    @property
    def log(self):
        return "".join(self.lines)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def is_alive(self):
        return self.process.poll() is None

    def rss_mib(self):
        """Memory in use, as Linux tells it."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    def ask(self, method, path, body=None, headers=(), timeout=60):
        """Status and body (bytes) of one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            if isinstance(body, (dict, list)):
                body = json.dumps(body)
            key = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
            connection.request(method, path, body, {**key, **dict(headers)})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def get(self, path, **more):
        return self.ask("GET", path, **more)

    def chat(self, messages, **fields):
        """Status and JSON of a chat completion at temperature 0."""
        body = {"messages": messages, "temperature": 0, **fields}
        status, answer = self.ask("POST", "/v1/chat/completions", body)
        return status, json.loads(answer)
