"""Directives for pages: ``pictured`` runs code and shows what it saves, ``gallery`` collects the pictures.

.. code-block:: rst

   .. pictured:: turned.png
      :alt: The photograph, turned by 30 degrees

      from PIL import Image

      Image.open("docs/photo.jpg").rotate(30).save("turned.png")

The code runs in a namespace of its own, as when pasted, in an empty folder in which ``docs`` is this one.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Gallery(nodes.General, nodes.Element):
    """Where the page's pictures are to be shown, small."""


class Pictured(SphinxDirective):
    has_content = True
    required_arguments = 1  # the picture's file
    option_spec: ClassVar = {"alt": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        name, code = self.arguments[0], "\n".join(self.content)
        page = self.env.docname.replace("/", "-")
        picture = Path(self.env.doctreedir) / "pictures" / f"{page}-{name}"
        picture.parent.mkdir(parents=True, exist_ok=True)
        try:
            run(code, Path(self.env.srcdir), name, picture)
        except Exception as error:
            raise self.error(f"{name}: {type(error).__name__}: {error}") from error
        # From the root of the sources, as Sphinx has it.
        uri = f"/{os.path.relpath(picture, self.env.srcdir)}"
        image = nodes.image(uri=uri, alt=self.options["alt"], classes=["pictured"])
        block = nodes.literal_block(code, code, language="python")
        self.set_source_info(block)
        return [block, image]


def run(code: str, docs: Path, name: str, picture: Path) -> None:
    """Executes the code, and moves the file that it saves."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "docs").symlink_to(docs)
        os.chdir(folder)
        try:
            exec(compile(code, name, "exec"), {"__name__": "__main__"})
        finally:
            os.chdir(before)
        # Not moved at once into its place, which may be on another file system.
        fresh = picture.with_name(f"{picture.name}.{os.getpid()}")
        fresh.write_bytes((Path(folder) / name).read_bytes())
        fresh.replace(picture)


class ShowGallery(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        return [Gallery()]


def fill_galleries(app: Sphinx, doctree: nodes.document) -> None:
    """A small picture for each large one, which leads to its section."""
    for gallery in list(doctree.findall(Gallery)):
        shown = nodes.container(classes=["gallery"])
        for image in doctree.findall(nodes.image):
            if "pictured" not in image["classes"]:
                continue
            section = image.parent
            caption = section.next_node(nodes.title).astext()
            small = nodes.image(uri=image["uri"], alt="")
            link = nodes.reference("", "", small, nodes.inline("", caption), refid=section["ids"][0])
            shown += nodes.paragraph("", "", link)
        gallery.replace_self(shown)


def setup(app: Sphinx) -> dict[str, object]:
    app.add_node(Gallery)
    app.add_directive("pictured", Pictured)
    app.add_directive("gallery", ShowGallery)
    # Before Sphinx collects the images, at 500.
    app.connect("doctree-read", fill_galleries, priority=400)
    return {"parallel_read_safe": False}
