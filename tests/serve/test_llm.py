"""The command `llm` with the server as an OpenAI-compatible model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from serving import DEMO

from conftest import KEY

LLM = Path(sys.executable).with_name("llm")


@pytest.fixture
def llm(server, tmp_path):
    """Runs `llm` with folders of its own."""
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: shapes\n  model_name: shapes\n  api_base: {server.url}/v1\n  api_key_name: shapes\n  vision: true\n"
    )
    env = {**os.environ, "LLM_USER_PATH": str(tmp_path)}

    def run(*args):
        done = subprocess.run([LLM, *map(str, args)], env=env, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("keys", "set", "shapes", "--value", KEY)
    return run


def test_the_model_is_listed(llm):
    assert "shapes" in llm("models")


@pytest.mark.parametrize("stream", [[], ["--no-stream"]], ids=["stream", "whole"])
def test_an_attachment_and_a_further_question(llm, stream):
    options = ["-m", "shapes", "-o", "temperature", 0, "-o", "max_tokens", 24, *stream]
    assert llm(*options, "-a", DEMO / "shapes.png", "What color is the star?").strip() == "yellow"
    assert llm(*options, "--continue", "What shape is the blue object?").strip() == "square"


def test_a_system_prompt(llm):
    said = llm("-m", "shapes", "-o", "temperature", 0, "-s", "Answer in a word.", "-a", DEMO / "trio.png", "What color is the circle?")
    assert said.strip()
