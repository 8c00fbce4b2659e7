"""Finding what an interrupted create had made; the clouds' clients are stand-ins."""

from types import SimpleNamespace

import pytest

from liveness.heat import lookups

NAME = "stack-server-x1y2"


class Calls:
    """A client that answers every list with the given things."""

    def __init__(self, *things):
        self.things = things
        self.asked = None

    def list(self, **query):
        self.asked = query
        return list(self.things)

    def list_ports(self, **query):
        self.asked = query
        return {"ports": list(self.things)}


def resource(service, entity, calls, name=None, **more):
    def client():
        return SimpleNamespace(**{entity: calls}) if service != "neutron" else calls

    return SimpleNamespace(
        name="r",
        default_client_name=service,
        entity=entity,
        properties={"name": name},
        client=client,
        physical_resource_name=lambda: NAME,
        get_resource_plural=lambda: "ports",
        **more,
    )


def server(*ids, **more):
    calls = Calls(*(SimpleNamespace(id=i) for i in ids))
    return resource("nova", "servers", calls, **more), calls


def test_a_server_is_found_by_exactly_its_name():
    rsrc, calls = server("s1")
    assert lookups.find(rsrc) == "s1"
    assert calls.asked == {"search_opts": {"name": "^stack\\-server\\-x1y2$"}}


def test_a_volume_is_found():
    calls = Calls(SimpleNamespace(id="v1"))
    assert lookups.find(resource("cinder", "volumes", calls)) == "v1"


def test_a_port_is_found():
    calls = Calls({"id": "p1"})
    assert lookups.find(resource("neutron", "port", calls)) == "p1"
    assert calls.asked == {"name": NAME}


@pytest.mark.parametrize("ids", [(), ("a", "b")], ids=["none", "two"])
def test_none_or_several_are_not_taken(ids):
    rsrc, _ = server(*ids)
    assert lookups.find(rsrc) is None


def test_a_name_of_the_users_own_is_no_proof():
    rsrc, calls = server("s1", name="web")
    assert lookups.find(rsrc) is None
    assert calls.asked is None


def test_other_things_of_a_service_are_not_servers():
    calls = Calls(SimpleNamespace(id="f1"))
    assert lookups.find(resource("nova", "flavors", calls)) is None


@pytest.mark.parametrize("service", [None, "glance"])
def test_a_service_that_is_not_known_is_not_asked(service):
    assert lookups.find(resource(service, "images", Calls())) is None


def test_a_cloud_that_does_not_answer_is_no_reason_to_fail():
    rsrc, _ = server("s1")
    rsrc.client = lambda: 1 / 0
    assert lookups.find(rsrc) is None


def test_a_class_may_know_for_itself():
    rsrc, _ = server("s1", liveness_find=lambda: "mine")
    assert lookups.find(rsrc) == "mine"


def test_ports_that_a_server_made_for_itself_are_removed():
    removed = []
    rsrc, _ = server(_delete_internal_ports=lambda: removed.append(True))
    lookups.tidy(rsrc)
    assert removed
    lookups.tidy(resource("nova", "servers", Calls()))  # a class that makes none
