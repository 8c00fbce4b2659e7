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
autodoc_default_options = {"show-inheritance": True}
suppress_warnings = ["ref.python"]

html_theme = "furo"
html_title = f"liveness {release}"
html_static_path = ["_static"]
