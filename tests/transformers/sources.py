"""Source distributions of packages, each pinned by its checksum."""

import hashlib
import os
import re
import tarfile
import urllib.parse
import urllib.request
from pathlib import Path


def fetch(folder, package, version, sha256):
    """Unpacks a source distribution into `folder`, unless it is there, and says where. pip builds metadata before it lets
    go of one, which takes minutes and a compiler: the index is read instead."""
    folder = Path(folder)
    root = folder / f"{package.replace('-', '_')}-{version}"
    if not root.exists():
        folder.mkdir(parents=True, exist_ok=True)
        archive = folder / f"{root.name}.tar.gz"
        if not archive.exists():
            urllib.request.urlretrieve(url(package, archive.name), archive)
        check(archive, sha256)
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    return root


def url(package, file_name):
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/") + f"/{package}/"
    with urllib.request.urlopen(index) as page:
        links = re.findall(r'href="([^"]+)"', page.read().decode())
    link = next(link for link in links if file_name in link and "metadata" not in link)
    return urllib.parse.urljoin(index, link.split("#")[0])


def check(archive, sha256):
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != sha256:
        archive.unlink()
        raise SystemExit(f"{archive.name} has sha256 {found}, {sha256} was expected")
