"""``liveness-web``: a page that shows, and does nothing else.

Plain WSGI and HTML, without JavaScript. It needs no right but to read.
"""

from liveness.cmd.web.app import Page
from liveness.cmd.web.program import Web, main

__all__ = ["Page", "Web", "main"]
