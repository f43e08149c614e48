"""Reads the sections of Keras's docstrings that Google's style does not know."""

import logging
import textwrap

import griffe

GOOGLE = {"Call arguments": "Args", "Example": "Examples"}


class KerasSections(griffe.Extension):
    """Shows sections by their titles: arguments as a list, examples as code, others as text."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """Replaces the sections of one docstring."""
        if obj.docstring:
            obj.docstring.parsed[:] = [_known(section, obj) for section in obj.docstring.parsed]


def _known(section: griffe.DocstringSection, obj: griffe.Object) -> griffe.DocstringSection:
    if section.kind is not griffe.DocstringSectionKind.admonition:
        return section
    title, text = section.title, section.value.contents
    if title not in GOOGLE:
        return griffe.DocstringSectionText(f"**{title}:**\n\n{text}")
    text = f"{title}\n\n{GOOGLE[title]}:\n{textwrap.indent(text, '    ')}"
    _, known = griffe.parse_google(griffe.Docstring(text, parent=obj.members.get("call")))
    known.title = f"{title}:"
    return known


def _refuse(record: logging.LogRecord) -> bool:
    """Makes an error of a warning, as of an argument that the signature does not have."""
    if record.levelno >= logging.WARNING:
        raise ValueError(record.getMessage())
    return True


logging.getLogger("mkdocs.plugins.griffe").addFilter(_refuse)
