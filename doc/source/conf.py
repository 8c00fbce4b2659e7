"""How sphinx builds the documentation; see the environment "docs" in tox.ini."""

from liveness.version import __version__

project = "liveness"
copyright = "the liveness contributors"
release = version = __version__

extensions = [
    "sphinx.ext.autodoc",
    "oslo_config.sphinxext",  # show-options: the list of options, from the code
]
nitpicky = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
suppress_warnings = ["ref.python"]

html_theme = "furo"
html_title = f"liveness {release}"
html_static_path = ["_static"]


def one_field_a_line(app, what, name, obj, options, lines):
    """The code writes short fields on one line (":raises A: … :raises B: …")."""
    text, mark, fields = "\n".join(lines).partition(":raises ")
    if mark:
        every = (mark + " ".join(fields.split())).split(mark)[1:]
        lines[:] = [*text.rstrip().splitlines(), ""]
        lines += [f"{mark}{field.strip()}" for field in every]
        lines.append("")


def setup(app):
    app.connect("autodoc-process-docstring", one_field_a_line)
