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
NEEDS_NET = ("IMG_URL_", "https://")


class AnyCount:
    """Equals every number of tokens that there can be."""

    def __eq__(self, other):
        return isinstance(other, int) and other > 0

    def __repr__(self):
        return "any number of tokens"


def pytest_configure(config):
    import utils

    utils.ServerPreset.load_all = staticmethod(lambda: None)
    utils.ServerPreset.router = adapted_router(utils.ServerPreset.router)


def adapted_router(made):
    def router():
        server = made()
        server.model_alias = "ggml-org/tinygemma3-GGUF:Q8_0"
        return server

    return staticmethod(router)


def pytest_collection_modifyitems(items):
    for item in items:
        adapt_module(item.module)
        params = getattr(item, "callspec", None) and item.callspec.params or {}
        for name in ("n_prompt", "n_predicted"):
            if params.get(name):
                params[name] = AnyCount()
        for name in ("re_content", "re_prefill"):
            if params.get(name) is not None and "response_format" not in params and "grammar" not in params and "json_schema" not in params:
                params[name] = ""
        if any(isinstance(value, str) and value.startswith(NEEDS_NET) for value in params.values()):
            item.add_marker(pytest.mark.skip(reason="needs the net"))


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
