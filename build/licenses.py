#!/usr/bin/env python3
"""Prints the licences of the Rust packages that are part of the program: licenses.py TARGET [FEATURES]"""

import json
import pathlib
import subprocess
import sys

NAMES = ("license", "licence", "copying", "notice", "unlicense")


def part_of_program(metadata):
    """The packages that are linked: what is reached without the dependencies of builds, of tests, and of macros."""
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = metadata["resolve"]["root"]
    reached, pending = set(), [root]
    while pending:
        for dependency in nodes[pending.pop()]["deps"]:
            package = dependency["pkg"]
            linked = any(kind["kind"] is None for kind in dependency["dep_kinds"])
            macro = any("proc-macro" in target["kind"] for target in packages[package]["targets"])
            if linked and not macro and package not in reached:
                reached.add(package)
                pending.append(package)
    return sorted((packages[package] for package in reached), key=lambda package: (package["name"], package["version"]))


def texts(package):
    folder = pathlib.Path(package["manifest_path"]).parent
    files = (path for path in sorted(folder.iterdir()) if path.is_file() and path.name.lower().startswith(NAMES))
    return [path.read_text(errors="replace").strip() for path in files]


def main():
    target, features = sys.argv[1], "".join(sys.argv[2:])
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", target, "--features", features]
    metadata = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    seen = {}
    for package in part_of_program(metadata):
        print(f"{package['name']} {package['version']}: {package['license'] or 'see its text'}")
        if package["repository"]:
            print(f"    {package['repository']}")
        for text in texts(package):
            seen.setdefault(text, []).append(f"{package['name']} {package['version']}")
    for text, names in seen.items():
        print(f"\n{'=' * 80}\n{', '.join(names)}\n{'=' * 80}\n{text}")


if __name__ == "__main__":
    main()
