"""What this site adds to Sphinx: the catalogue as a table, and quieter pages for states."""

import re
import sys
import types

import jax
import methods_table
import optax
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import stringify_annotation

from gradax import catalogue, federated, optimizers


class Catalogue(SphinxDirective):
    """Prints the table of a package: ``{catalogue} optimizers``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Lets the page's own parser read the table."""
        self.env.note_dependency(catalogue.__file__)
        table = self.parse_text_to_nodes(methods_table.markdown(self.arguments[0]))
        return [nodes.container("", *table, classes=["catalogue"])]


def hide_tuple_fields(app, what, name, obj, skip, options):
    """Fields of a NamedTuple stand under Attributes already."""
    del app, what, name, options
    return True if type(obj).__name__ == "_tuplegetter" else skip


#: Unions that would fill a line, by the names that people write; the longer ones first.
ALIASES = {
    "ScalarOrSchedule": optax.ScalarOrSchedule,
    "Schedule": optax.Schedule,
    "ArrayTree": optax.Params,
    "ArrayLike": jax.typing.ArrayLike,
}


def shorten_types(app, what, name, obj, options, signature, returned):
    """Writes aliases again as aliases."""
    del app, what, name, obj, options

    def shorten(text):
        for alias, union in ALIASES.items():
            text = text and text.replace(stringify_annotation(union, "smart"), alias)
        return text

    return shorten(signature), shorten(returned)


def unlink_foreign_pages(app, what, name, obj, options, lines):
    """Other libraries' docstrings link to pages of their own sites, which are not here."""
    del app, what, name, options
    if not (getattr(obj, "__module__", None) or "gradax").startswith("gradax"):
        link = re.compile(r":doc:`(?:([^`<]+?) *<[^`]+>|([^`]+))`")
        lines[:] = [link.sub(lambda found: found[1] or f"``{found[2]}``", line) for line in lines]


def alias_public_modules(app):
    """Lets autodoc import modules under their public names, such as federated.topology."""
    del app
    for package in (optimizers, federated):
        for name, value in vars(package).items():
            if isinstance(value, types.ModuleType):
                sys.modules.setdefault(f"{package.__name__}.{name}", value)


def setup(app: Sphinx) -> dict:
    """Registers everything."""
    app.add_directive("catalogue", Catalogue)
    app.connect("builder-inited", alias_public_modules, priority=100)
    app.connect("autodoc-skip-member", hide_tuple_fields)
    app.connect("autodoc-process-signature", shorten_types)
    app.connect("autodoc-process-docstring", unlink_foreign_pages)
    # The table shows what is registered, which no file on disk tells: read it every time.
    app.connect("env-get-outdated", lambda app, env, added, changed, removed: ["catalogue"])
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
