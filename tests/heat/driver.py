"""Heat's RPC client as a process of its own, run by the Python that has Heat.

One request a line on stdin, `{"id", "method", "kwargs"}`; one answer a line on
stdout, `{"id", "result"}` or `{"id", "error": {"type", "message"}}`. Each request
has a thread, so that one that waits for a dead engine's answer holds up no other.
"""

import json
import logging
import sys
import threading
import time
import traceback

from heat.common import config, context, messaging  # noqa: F401
from heat.rpc import client as rpc_client
from keystoneauth1 import session
from keystoneauth1.identity import v3
from oslo_config import cfg
from oslo_log import log as oslo_log

TOKEN_SECONDS = 1200  # of the hour that a token lives


class Driver:
    def __init__(self, auth_url):
        self._auth_url = auth_url
        self._client = rpc_client.EngineClient()
        self._lock = threading.Lock()
        self._context = None
        self._until = 0.0

    def _user(self):
        """What heat-api would hand on: trusts need `auth_token_info`."""
        with self._lock:
            if time.monotonic() > self._until:
                auth = v3.Password(
                    auth_url=self._auth_url,
                    username="demo",
                    password="demo",
                    project_name="demo",
                    user_domain_id="default",
                    project_domain_id="default",
                )
                access = auth.get_access(session.Session(auth=auth, timeout=60))
                self._context = {
                    "auth_token": access.auth_token,
                    "auth_token_info": access._data,
                    "username": access.username,
                    "user_id": access.user_id,
                    "project_id": access.project_id,
                    "project_name": access.project_name,
                    "auth_url": self._auth_url,
                    "roles": list(access.role_names),
                    "user_domain_id": "default",
                    "project_domain_id": "default",
                    "is_admin": False,
                }
                self._until = time.monotonic() + TOKEN_SECONDS
            return context.RequestContext(**self._context)

    def ping(self):
        return "pong"

    def create_stack(self, name, template, files=None, params=None, **args):
        return self._client.create_stack(
            self._user(), name, template, params or {}, files or {}, args
        )

    def update_stack(self, identity, template, files=None, params=None, **args):
        return self._client.update_stack(
            self._user(), identity, template, params or {}, files or {}, args
        )

    def __getattr__(self, name):
        """Every other call takes an identity and what else it likes."""
        if name.startswith("_"):
            raise AttributeError(name)
        method = getattr(self._client, name)
        return lambda identity, *rest, **more: method(
            self._user(), identity, *rest, **more
        )


def main(config_file, auth_url):
    oslo_log.register_options(cfg.CONF)
    cfg.CONF(["--config-file", config_file], project="heat", prog="driver")
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    messaging.setup()
    driver = Driver(auth_url)
    out, lock = sys.stdout, threading.Lock()
    sys.stdout = sys.stderr  # whatever else prints

    def answer(message):
        with lock:
            out.write(json.dumps(message, default=str) + "\n")
            out.flush()

    def serve(request):
        try:
            method = getattr(driver, request["method"])
            result = method(*request.get("args", ()), **request.get("kwargs", {}))
            answer({"id": request["id"], "result": result})
        except Exception as exc:
            traceback.print_exc()
            # oslo.messaging wraps what it may not raise here, and else names it
            # Thing_Remote.
            name = getattr(exc, "exc_type", None) or type(exc).__name__
            text = str(getattr(exc, "value", None) or exc)
            error = {
                "type": name.removesuffix("_Remote"),
                "message": text.partition("\nTraceback ")[0].strip(),
            }
            answer({"id": request["id"], "error": error})

    answer({"id": 0, "result": "ready"})
    for line in sys.stdin:
        threading.Thread(target=serve, args=(json.loads(line),), daemon=True).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
