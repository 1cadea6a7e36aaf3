"""Sphinx configuration; build with ``make docs``."""

import os
import pathlib
import sys

import gradax

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project = "gradax"
author = "The gradax authors"
copyright = author
version = release = gradax.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinxcontrib.bibtex",
    "myst_nb",
    "gradax_site",
]
templates_path = ["_templates"]
exclude_patterns = [
    "guides/which_optimizer_table.md",  # included elsewhere
    "guides/robust_matrix.md",
    "guides/how_fast_table.md",
    "_build",
    "jupyter_execute",
    ".jupyter_cache",
    "**.ipynb_checkpoints",
]

# Pages -----------------------------------------------------------------------------------

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
bibtex_bibfiles = sorted(path.name for path in HERE.glob("references*.bib"))
bibtex_reference_style = "author_year"
bibtex_default_style = "plain"

# Every notebook and every page with cells is run when the site is built; a cell that fails
# fails the build. Results are cached until a cell changes.
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True
# Guides import the examples that they explain.
os.environ["PYTHONPATH"] = str(HERE.parent / "examples")

# Interface -------------------------------------------------------------------------------

autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_use_rtype = False

# References to the documentation of other libraries need the network to be checked.
intersphinx_mapping = (
    {
        "jax": ("https://docs.jax.dev/en/latest", None),
        "optax": ("https://optax.readthedocs.io/en/latest", None),
        "flax": ("https://flax.readthedocs.io/en/latest", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "python": ("https://docs.python.org/3", None),
    }
    if os.environ.get("GRADAX_DOCS_ONLINE")
    else {}
)

# Looks -----------------------------------------------------------------------------------

html_theme = "sphinx_book_theme"
html_title = "gradax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"show_navbar_depth": 1, "show_toc_level": 2, "home_page_in_toc": True}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
