"""A plugin for pytest: llama-server's tests, asked of another server on another model.

What belongs to their model is not compared: texts of answers, and numbers of tokens, of which any is right. Their pictures,
which they fetch, become the pictures that ship here."""

import base64
import json
import os

import pytest
import serving

# files of theirs by what stands for them here
PICTURES = {"0": "shapes.png", "1": "trio.png"}


class AnyCount(int):
    """Equals every number of tokens that there can be."""

    def __eq__(self, other):
        return isinstance(other, int) and other > 0

    __hash__ = int.__hash__


class AnyReason(str):
    """Equals both reasons why an answer has ended."""

    def __eq__(self, other):
        return other in ("stop", "length")

    __hash__ = str.__hash__


# tests in which the text of an answer does not depend on the model
TEXT_MATTERS = {"test_completion_with_response_format", "test_completion_with_json_schema", "test_completion_with_grammar"}


def pytest_configure():
    import utils

    utils.ServerPreset.load_all = staticmethod(lambda: None)


def pytest_collection_modifyitems(items):
    for item in items:
        adapt_module(item.module)
        params = item.callspec.params if hasattr(item, "callspec") else {}
        for name in ("n_prompt", "n_predicted"):
            if params.get(name):
                params[name] = AnyCount(params[name])
        if params.get("finish_reason"):
            params["finish_reason"] = AnyReason(params["finish_reason"])


@pytest.fixture(autouse=True)
def any_text(request, monkeypatch):
    if request.function.__name__ not in TEXT_MATTERS and hasattr(request.module, "match_regex"):
        monkeypatch.setattr(request.module, "match_regex", lambda _, text: isinstance(text, str))


def adapt_module(module):
    if hasattr(module, "get_img_url"):
        module.get_img_url = picture


def picture(name):
    for prefix in ("IMG_BASE64_URI_", "IMG_BASE64_", "IMG_URL_"):
        if name.startswith(prefix):
            content = (serving.DEMO / PICTURES[name.removeprefix(prefix)]).read_bytes()
            bare = base64.b64encode(content).decode()
            return bare if prefix == "IMG_BASE64_" else serving.data_url(content)
    return name


def pytest_runtest_logreport(report):
    """Notes what came of each test, for the table."""
    outcomes = OUTCOMES.setdefault(report.nodeid, "passed")
    if report.failed or (report.skipped and outcomes == "passed"):
        why = str(getattr(getattr(report.longrepr, "reprcrash", None), "message", report.longrepr))
        OUTCOMES[report.nodeid] = f"{report.outcome}: {why.splitlines()[0] if why else ''}"


OUTCOMES = {}


def pytest_sessionfinish():
    with open(os.environ["OUTCOMES"], "w") as file:
        json.dump(OUTCOMES, file, indent=1)
