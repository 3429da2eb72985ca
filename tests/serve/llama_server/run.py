"""llama-server's own tests against `visipruner serve`: which pass, which do not, and why.

    python tests/serve/llama_server/run.py [VISIPRUNER] [--write]

Fails if something passes or fails that expected.toml does not say. --write writes docs/serve-llama-server-tests.md."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tomllib
import urllib.error
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "transformers")]

import converters
from serving import ROOT, program

DOCUMENT = ROOT / "docs/serve-llama-server-tests.md"
# what is said in their tests and done here in another way, on purpose: the name of the build, and a first piece of a stream
# that is empty, as OpenAI's, and not null
REPLACED = {
    'system_fingerprint.startswith("b")': 'system_fingerprint.startswith("visipruner")',
    '["system_fingerprint"].startswith("b")': '["system_fingerprint"].startswith("visipruner")',
    '["delta"]["content"] is None': '["delta"]["content"] == ""',
    'delta.content is None': 'delta.content == ""',
}
# keys are asked for at the address that there is
REPLACED_IN = {"test_security.py": {'"/completions"': '"/v1/completions"'}}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("visipruner", nargs="?")
    parser.add_argument("--write", action="store_true", help="write the table of the documentation")
    given = parser.parse_args()
    expected = tomllib.loads((HERE / "expected.toml").read_text())
    tests = adapted_copy(theirs())
    outcomes = run(tests, program(given.visipruner), node_ids(expected))
    by_test = by_function(outcomes)
    faults = unexpected(by_test, expected["not_passing"])
    if given.write:
        DOCUMENT.write_text(table(by_test, expected))
    n_passed = sum(outcome == "passed" for outcome in outcomes.values())
    print(f"{n_passed} of {len(outcomes)} cases pass; unexpected: {len(faults)}")
    for fault in faults:
        print(" ", fault)
    return bool(faults)


def theirs():
    """llama.cpp's source. Without the internet it ends with EX_UNAVAILABLE."""
    try:
        return converters.fetch(ROOT / "target/transformers").llama_cpp
    except urllib.error.URLError as error:
        print(f"{converters.PACKAGE} cannot be downloaded: {error}", file=sys.stderr)
        sys.exit(os.EX_UNAVAILABLE)


def adapted_copy(llama_cpp):
    """Their tests, beside where they were unpacked, as some of them open files by relative paths."""
    tests = llama_cpp / "tools/server/tests"
    copy = tests.with_name("tests-visipruner")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(tests, copy)
    for path in copy.glob("unit/*.py"):
        text = path.read_text()
        for old, new in (REPLACED | REPLACED_IN.get(path.name, {})).items():
            text = text.replace(old, new)
        path.write_text(text)
    return copy


def node_ids(expected):
    """What pytest is to run: files, or tests in them."""
    for name in expected["files"]:
        tests = expected["only"].get(name)
        yield from [f"unit/{name}.py::{test}" for test in tests] if tests else [f"unit/{name}.py"]


def run(tests, visipruner, nodes):
    launcher = tests / "llama-server"
    launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{HERE / "as_llama_server.py"}" "$@"\n')
    launcher.chmod(0o755)
    outcomes = tests / "outcomes.json"
    env = {
        **os.environ,
        "VISIPRUNER": str(visipruner),
        "LLAMA_SERVER_BIN_PATH": str(launcher),
        "OUTCOMES": str(outcomes),
        "PYTHONPATH": os.pathsep.join(map(str, (HERE, HERE.parent, tests))),
        "PORT": "18080",
    }
    env.pop("VISIPRUNER_API_KEY", None)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "adapted", "-p", "no:cacheprovider", "--tb=short", "--timeout=120"]
    with open(tests / "log.txt", "w") as log:
        subprocess.run([*command, *nodes], cwd=tests, env=env, stdout=log, stderr=subprocess.STDOUT)
    print(f"the log is {tests / 'log.txt'}")
    return json.loads(outcomes.read_text())


def by_function(outcomes):
    """{(file, test): {case: outcome}}"""
    found = {}
    for node, outcome in outcomes.items():
        file, _, rest = node.partition("::")
        test, _, case = rest.partition("[")
        found.setdefault((Path(file).stem, test), {})[case.rstrip("]")] = outcome
    return found


def unexpected(by_test, not_passing):
    """What differs from what is written down, case by case."""
    faults = []
    for (file, test), cases in by_test.items():
        reason = not_passing.get(file, {}).get(test)
        allowed = reason and reason.get("cases")
        for case, outcome in cases.items():
            may_fail = reason is not None and (allowed is None or any(case.startswith(start) for start in allowed))
            if outcome != "passed" and not may_fail:
                faults.append(f"{file}::{test}[{case}] {outcome}")
            if outcome == "passed" and may_fail:
                faults.append(f"{file}::{test}[{case}] passes, and is not expected to")
    for file, tests in not_passing.items():
        faults += [f"{file}::{test} is not there" for test in tests if (file, test) not in by_test]
    return faults


def table(by_test, expected):
    n_passed = sum(outcome == "passed" for cases in by_test.values() for outcome in cases.values())
    n_cases = sum(map(len, by_test.values()))
    lines = [
        "# llama-server's own tests against `visipruner serve`",
        "",
        f"The tests of llama-server in the source distribution of {converters.PACKAGE} {converters.VERSION}, run on the model that",
        "ships. Texts and numbers of tokens that belong to their model are not compared; where they fetch pictures, they get",
        f"those of `models/demo`. Of {n_cases} cases {n_passed} pass. This table is written by",
        "`python tests/serve/llama_server/run.py --write`, which fails where a test does otherwise.",
        "",
    ]
    for file in expected["files"]:
        lines += [f"## `{file}.py`", "", "| test | passes | why not |", "| --- | --- | --- |"]
        for (of, test), cases in by_test.items():
            if of != file:
                continue
            n_pass = sum(outcome == "passed" for outcome in cases.values())
            reason = expected["not_passing"].get(file, {}).get(test, {}).get("why", "")
            number = "yes" if n_pass == len(cases) else "no" if n_pass == 0 else f"{n_pass} of {len(cases)}"
            lines.append(f"| `{test}` | {number} | {reason} |")
        lines.append("")
    lines += ["## Tests that are not run", "", "| file | why |", "| --- | --- |"]
    lines += [f"| `{file}.py` | {why} |" for file, why in expected["not_run"].items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
