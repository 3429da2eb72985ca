"""What the tests of clients share."""

import json

import pytest
from serving import DEMO, Server, picture_url, program

KEY = "sk-a-key-of-this-test"


def pytest_addoption(parser):
    parser.addoption("--visipruner", help="the program [default: $VISIPRUNER, or what cargo built last]")


@pytest.fixture(scope="session")
def visipruner(request):
    return program(request.config.getoption("--visipruner"))


@pytest.fixture(scope="session")
def server(visipruner):
    """A server with a key."""
    with Server(visipruner, "--alias", "shapes", api_key=KEY) as server:
        yield server
        assert server.is_alive(), f"the server has ended:\n{server.log}"


@pytest.fixture(scope="session")
def questions():
    """(picture as a data URL, question, an answer that is right) for the pictures that ship."""
    listed = json.loads((DEMO / "questions.json").read_text())
    return [(picture_url(of["image"]), asked["question"], asked["answers"]) for of in listed for asked in of["questions"]]
