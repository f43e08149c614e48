"""Measures every head and writes the tables of docs/heads.md: `python -m zoo`, in tests/prove."""

import importlib.metadata
import pathlib
import re
import sys
import textwrap

PROVE = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(PROVE.parent))

from backend import run  # noqa: E402

import zoo  # noqa: E402
from zoo import in_diffusers, in_monai, in_timm, in_transformers  # noqa: E402, F401

PAGE = PROVE.parent.parent / "docs" / "heads.md"
PACKAGES = "torch keras transformers diffusers timm monai segmentation-models-pytorch"

if __name__ == "__main__":
    versions = [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES.split()]
    lines = [*textwrap.wrap(f"Measured with {', '.join(versions)}.", 100), ""]
    for title, heads in zoo.tables().items():
        lines += [f"## {title}", "", zoo.HEADER, "|---" * zoo.HEADER.count(" | ") + "|---|"]
        for head in heads:
            difference = zoo.difference(*head.outputs(run))
            lines.append(f"{zoo.row(head)} {difference:.0e} |")
            print(lines[-1])
        lines.append("")
    tables = "<!-- tables -->\n" + "\n".join(lines) + "<!-- end of tables -->"
    text = re.sub(
        r"<!-- tables -->.*<!-- end of tables -->", lambda _: tables, PAGE.read_text(), flags=re.S
    )
    PAGE.write_text(text)
