"""curl against the server, as the documentation shows it."""

import json
import shutil
import subprocess

import pytest
from serving import picture_url, user

from conftest import KEY

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@pytest.fixture
def curl(server, tmp_path):
    """Status and body of what curl is answered."""

    def run(path, body=None, *options, key=KEY):
        command = ["curl", "-sS", "--max-time", "60", "-w", "\n%{http_code}", f"{server.url}{path}", *options]
        if key:
            command += ["-H", f"Authorization: Bearer {key}"]
        if body is not None:
            (tmp_path / "body.json").write_text(json.dumps(body))
            command += ["-d", f"@{tmp_path / 'body.json'}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        text, _, status = done.stdout.rpartition("\n")
        return int(status), text

    return run


QUESTION = {"messages": [user("What color is the star?", picture_url("shapes.png"))], "temperature": 0}


def test_a_picture(curl):
    """The body goes as application/x-www-form-urlencoded, which is what curl -d says of it."""
    status, text = curl("/v1/chat/completions", QUESTION)
    assert status == 200
    assert json.loads(text)["choices"][0]["message"]["content"].strip() == "yellow"


def test_a_stream(curl):
    status, text = curl("/v1/chat/completions", {**QUESTION, "stream": True}, "-N", "-D", "-")
    head, _, events = text.replace("\r", "").partition("\n\n")
    assert status == 200 and "content-type: text/event-stream" in head
    data = [line.removeprefix("data: ") for line in events.splitlines() if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    chunks = [json.loads(line) for line in data[:-1]]
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks).strip() == "yellow"


def test_large_bodies_and_expectations(curl):
    """curl asks leave for a large body (Expect: 100-continue) and waits for it."""
    status, text = curl("/v1/chat/completions", {**QUESTION, "unheard_of": "x" * 3_000_000}, "-H", "Expect: 100-continue")
    assert status == 200 and "yellow" in text


def test_what_a_prompt_costs(curl):
    status, text = curl("/v1/chat/completions/input_tokens", QUESTION)
    assert status == 200
    counted = json.loads(text)
    answered = json.loads(curl("/v1/chat/completions", QUESTION)[1])
    assert counted["input_tokens"] == answered["usage"]["prompt_tokens"]
    assert counted["input_tokens"] == counted["text_tokens"] + sum(counted["image_tokens"])


def test_keys(curl):
    assert curl("/v1/chat/completions", QUESTION, key=None)[0] == 401
    assert curl("/v1/chat/completions", QUESTION, key="wrong")[0] == 401
    assert curl("/v1/chat/completions", QUESTION, "-H", f"x-api-key: {KEY}", key=None)[0] == 200
    for path in ("/metrics", "/props", "/slots"):
        assert curl(path, key=None)[0] == 401
        assert curl(path)[0] == 200
    for path in ("/health", "/v1/models", "/"):
        assert curl(path, key=None)[0] == 200


def test_metrics(curl):
    def counted(name):
        lines = curl("/metrics")[1].splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    names = [line.split()[2] for line in curl("/metrics")[1].splitlines() if line.startswith("# TYPE")]
    assert names and all(name.startswith("visipruner") for name in names)
    before = counted("visipruner_")
    curl("/v1/chat/completions", QUESTION)
    assert counted("visipruner_") > before
