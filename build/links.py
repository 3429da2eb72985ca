#!/usr/bin/env python3
"""Every relative link in the repository's Markdown leads to a file that is there, and to a heading of it."""

import re
import subprocess
import sys
import urllib.parse
from pathlib import Path

FENCED = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def anchors(document):
    """As GitHub makes them: lower case, blanks as dashes, no punctuation; a number behind one that comes again."""
    seen = {}
    for heading in re.findall(r"^#+ +(.*)$", FENCED.sub("", document.read_text()), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip())
        anchor = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        count = seen[anchor] = seen.get(anchor, -1) + 1
        yield f"{anchor}-{count}" if count else anchor


def broken(document):
    for target in LINK.findall(FENCED.sub("", document.read_text())):
        address = urllib.parse.urlsplit(target)
        if address.scheme:
            continue
        path = document.parent / address.path if address.path else document
        if not path.exists() or (address.fragment and address.fragment not in anchors(path)):
            yield target


files = subprocess.run(["git", "ls-files", "*.md"], capture_output=True, text=True, check=True).stdout.split()
found = [f"{name}: {target} leads nowhere" for name in files for target in broken(Path(name))]
sys.exit("\n".join(found) or None)
