#!/usr/bin/env python3
"""Make the Python modules of the collective's schemas. Needs grpcio-tools.

    python scripts/make_protos.py [FOLDER]

Reads src/dodici/collective/protos/*.proto and writes *_pb2.py and *_pb2.pyi beside them, or into FOLDER. The
messages get names of dodici's own in the descriptor pool; src/dodici/collective/protos/__init__.py says why.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

PROTOS = Path(__file__).resolve().parent.parent / "src/dodici/collective/protos"
OWN_FOLDER = "dodici/collective/protos"


def own(text: str) -> str:
    """A schema with the package and the imports that dodici's copy of it has.

    One package for all of `collector`: its files refer to each other's messages by their short names.
    """
    names = {source.name for source in PROTOS.glob("*.proto")}
    text = re.sub(r"^package (\w+);", r"package dodici.collective.\1;", text, count=1, flags=re.MULTILINE)
    return re.sub(
        r'^import "([\w.]+)";',
        lambda found: f'import "{OWN_FOLDER}/{found[1]}";' if found[1] in names else found[0],
        text,
        flags=re.MULTILINE,
    )


def make(target: Path) -> list[Path]:
    """Write the modules of all schemas into `target`, and return their paths.

    Raises:
        SystemExit: a schema is wrong; protoc has said where.
    """
    import grpc_tools
    from grpc_tools import protoc

    known = Path(grpc_tools.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / OWN_FOLDER).mkdir(parents=True)
        (root / "out").mkdir()
        sources = []
        for schema in sorted(PROTOS.glob("*.proto")):
            source = root / OWN_FOLDER / schema.name
            source.write_text(own(schema.read_text()))
            sources.append(str(source))
        status = protoc.main(
            [
                "protoc",
                f"-I{root}",
                f"-I{known}",
                f"--python_out={root}/out",
                f"--pyi_out={root}/out",
                *sources,
            ]
        )
        if status:
            raise SystemExit(status)
        written = []
        for made in sorted((root / "out" / OWN_FOLDER).iterdir()):
            written.append(target / made.name)
            written[-1].write_text(made.read_text())
    return written


if __name__ == "__main__":
    for path in make(Path(sys.argv[1]) if len(sys.argv) > 1 else PROTOS):
        print(path.name)
