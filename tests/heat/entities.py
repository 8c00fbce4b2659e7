"""Heat's users, projects and domain in keystone. Run by the Python that has it."""

import sys

from keystoneauth1 import session
from keystoneauth1.identity import v3
from keystoneclient.v3 import client


def main(auth_url):
    auth = v3.Password(
        auth_url=auth_url,
        username="admin",
        password="admin",
        project_name="admin",
        user_domain_id="default",
        project_domain_id="default",
    )
    keystone = client.Client(session=session.Session(auth=auth, timeout=60))
    roles = {role.name: role for role in keystone.roles.list()}
    for name in ("heat_stack_owner", "heat_stack_user"):
        roles[name] = keystone.roles.create(name)

    service = keystone.projects.create("service", domain="default")
    heat = keystone.users.create("heat", domain="default", password="heat")
    keystone.roles.grant(roles["admin"], user=heat, project=service)

    project = keystone.projects.create("demo", domain="default")
    user = keystone.users.create("demo", domain="default", password="demo")
    for name in ("member", "heat_stack_owner"):
        keystone.roles.grant(roles[name], user=user, project=project)

    domain = keystone.domains.create("heat")
    admin = keystone.users.create("heat_admin", domain=domain, password="heat")
    keystone.roles.grant(roles["admin"], user=admin, domain=domain)


if __name__ == "__main__":
    main(sys.argv[1])
