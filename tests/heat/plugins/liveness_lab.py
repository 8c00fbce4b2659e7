"""Resource types whose real life can be counted from outside.

What Heat believes stands in its database; what really happened stands here. A
"physical" resource is a file in the folder `cloud`, and every real call is a line
in `journal.jsonl`, both under LIVENESS_HEAT_CLOUD. A line is one write with
O_APPEND, so that no process that is killed leaves half of one or loses its place.

Loaded by heat-engine through `plugin_dirs`; imports nothing of the test suite.
"""

import contextlib
import json
import os
import time
import uuid

from heat.common import exception
from heat.engine import attributes, properties, resource

FOLDER = os.environ.get("LIVENESS_HEAT_CLOUD", "")


def record(event, rsrc, physical, **more):
    line = {
        "at": time.time(),
        "pid": os.getpid(),
        "event": event,
        "type": type(rsrc).__name__,
        "root": rsrc.root_stack_id or rsrc.stack.root_stack_id(),
        "stack": rsrc.stack.id,
        "resource": rsrc.name,
        "tag": rsrc.properties["tag"] or rsrc.name,
        "row": rsrc.id,
        "physical": physical,
        **more,
    }
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    handle = os.open(os.path.join(FOLDER, "journal.jsonl"), flags, 0o600)
    try:
        os.write(handle, (json.dumps(line) + "\n").encode())
    finally:
        os.close(handle)


def _path(physical):
    return os.path.join(FOLDER, "cloud", physical)


def look(physical):
    """The physical resource, or None if there is none."""
    try:
        with open(_path(physical)) as file:
            return json.load(file)
    except FileNotFoundError:
        return None


def put(physical, thing):
    draft = os.path.join(FOLDER, f"{physical}.{os.getpid()}.{time.monotonic_ns()}")
    with open(draft, "w") as file:
        json.dump(thing, file)
    os.rename(draft, _path(physical))


def _seconds(text):
    return properties.Schema(
        properties.Schema.NUMBER, text, default=0, update_allowed=True
    )


class Plain(resource.Resource):
    """A class like most: once its action has failed it is replaced."""

    properties_schema = {
        "tag": properties.Schema(
            properties.Schema.STRING,
            "What it is counted by; its name, if left out.",
            default="",
            update_allowed=True,
        ),
        "size": properties.Schema(
            properties.Schema.NUMBER,
            "A value that is updated in place.",
            default=1,
            update_allowed=True,
        ),
        "kind": properties.Schema(
            properties.Schema.STRING,
            "A value whose change means a replacement.",
            default="a",
        ),
        "needs": properties.Schema(
            properties.Schema.LIST,
            "Other resources' values, for dependencies.",
            default=[],
            update_allowed=True,
        ),
        "fail": properties.Schema(
            properties.Schema.STRING,
            "The action that ends in an error.",
            default="",
            update_allowed=True,
        ),
        "before_secs": _seconds("A create: from the call until something exists."),
        "gap_secs": _seconds("A create: from then until its id is written down."),
        "create_secs": _seconds("A create: from then until it is ready."),
        "update_secs": _seconds("How long an update takes."),
        "delete_secs": _seconds("How long a delete takes."),
        "suspend_secs": _seconds("How long a suspend takes."),
        "resume_secs": _seconds("How long a resume takes."),
        "check_secs": _seconds("How long a check takes."),
        "snapshot_secs": _seconds("How long a snapshot takes."),
        "delete_snapshot_secs": _seconds("How long the deletion of one takes."),
        "adopt_secs": _seconds("How long an adopt takes."),
    }

    attributes_schema = {
        "value": attributes.Schema("The physical id.", type=attributes.Schema.STRING)
    }

    # What check_create_complete is given: as Server has it, the id.
    def _handler_data(self):
        return self.resource_id

    def handle_create(self):
        self._asked()
        physical = uuid.uuid4().hex
        self._make(physical)
        self._sleep("gap_secs")
        self.resource_id_set(physical)
        return self._handler_data()

    def _asked(self):
        """The request has gone out, and nothing exists yet."""
        record("asked", self, None)
        self._sleep("before_secs")

    def _make(self, physical):
        ready_at = time.time() + self.properties["create_secs"]
        name = self.physical_resource_name()
        put(physical, {"status": "BUILD", "ready_at": ready_at, "name": name})
        record("create", self, physical)

    def check_create_complete(self, _data=None):
        record("poll", self, self.resource_id)
        thing = look(self.resource_id)
        if thing is None:
            raise exception.EntityNotFound(entity="Thing", name=self.resource_id)
        if thing["status"] == "ERROR":
            raise exception.ResourceInError(resource_status="ERROR")
        if thing["ready_at"] > time.time():
            return False
        self._may_fail("create")
        put(self.resource_id, {**thing, "status": "ACTIVE"})
        # What a class does once it is ready: skipped if Heat is lied to.
        record("created", self, self.resource_id)
        return True

    def handle_update(self, json_snippet, tmpl_diff, prop_diff):
        # Only now are the new values this resource's own.
        self.properties = json_snippet.properties(self.properties_schema, self.context)
        record("update", self, self.resource_id, size=self.properties["size"])
        return time.time() + self.properties["update_secs"]

    def check_update_complete(self, end):
        return self._until("update", end)

    def handle_delete(self):
        if self.resource_id is None:
            return None
        thing = look(self.resource_id)
        if thing is None:
            return None
        record("delete", self, self.resource_id)
        # A second request does not start the clock again.
        end = thing.get("gone_at") or time.time() + self.properties["delete_secs"]
        put(self.resource_id, {**thing, "status": "DELETING", "gone_at": end})
        return end

    def handle_snapshot_delete(self, state):
        """A deletion with the policy Snapshot."""
        record("snapshot_delete", self, self.resource_id)
        return self.handle_delete()

    def check_delete_complete(self, end):
        if end is None:
            return True
        if not self._until("delete", end):
            return False
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_path(self.resource_id))
            record("gone", self, self.resource_id)
        return True

    def handle_suspend(self):
        return self._begin("suspend")

    def check_suspend_complete(self, end):
        return self._until("suspend", end)

    def handle_resume(self):
        return self._begin("resume")

    def check_resume_complete(self, end):
        return self._until("resume", end)

    def handle_check(self):
        return self._begin("check")

    def check_check_complete(self, end):
        if look(self.resource_id) is None:
            raise exception.EntityNotFound(entity="Thing", name=self.resource_id)
        return self._until("check", end)

    def handle_snapshot(self):
        return self._begin("snapshot")

    def check_snapshot_complete(self, end):
        return self._until("snapshot", end)

    def handle_delete_snapshot(self, snapshot):
        return self._begin("delete_snapshot")

    def check_delete_snapshot_complete(self, end):
        return self._until("delete_snapshot", end)

    def handle_adopt(self, resource_data=None):
        super().handle_adopt(resource_data)
        return self._begin("adopt")

    def check_adopt_complete(self, end):
        return self._until("adopt", end)

    def _begin(self, action):
        record(action, self, self.resource_id)
        return time.time() + self.properties[f"{action}_secs"]

    def _until(self, action, end):
        record("poll", self, self.resource_id, action=action)
        if end > time.time():
            return False
        self._may_fail(action)
        return True

    def _may_fail(self, action):
        if self.properties["fail"] == action:
            raise exception.Error(f"{self.name} was told to fail its {action}")

    def _sleep(self, name):
        time.sleep(self.properties[name])

    def _resolve_attribute(self, name):
        return self.resource_id


class Server(Plain):
    """As OS::Nova::Server: what stands in FAILED is kept if the cloud says it lives."""

    def needs_replace_failed(self):
        if not self.resource_id:
            return True
        thing = look(self.resource_id)
        return thing is None or thing["status"] == "ERROR"

    def liveness_find(self):
        """As one finds a server whose id nobody wrote down: by its name."""
        name = self.physical_resource_name()
        found = [
            physical
            for physical in os.listdir(os.path.join(FOLDER, "cloud"))
            if (thing := look(physical)) and thing["name"] == name
        ]
        return found[0] if len(found) == 1 else None


class Port(Server):
    """As OS::Neutron::Port: its check is given nothing and asks by resource_id."""

    def _handler_data(self):
        return None


class Deployment(Plain):
    """As OS::Heat::SoftwareDeployment: replaced when it has failed, though a second
    create runs a script a second time on a user's machine; and its id, which it
    chooses itself, is written down before anything exists."""

    def handle_create(self):
        self._asked()
        self.resource_id_set(uuid.uuid4().hex)
        self._sleep("gap_secs")
        self._make(self.resource_id)
        return {"id": self.resource_id}


def resource_mapping():
    return {
        f"Liveness::{cls.__name__}": cls for cls in (Plain, Server, Port, Deployment)
    }
