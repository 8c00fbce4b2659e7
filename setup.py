import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent


def version():
    # Read, not imported: a build has none of the dependencies. Not from git
    # either: a clone without tags, and an sdist, build the same package.
    text = (HERE / "liveness" / "version.py").read_text(encoding="utf-8")
    return re.search(r"^__version__ = ['\"](.+)['\"]$", text, re.MULTILINE)[1]


def requirements(name):
    lines = (HERE / name).read_text(encoding="utf-8").splitlines()
    stripped = (line.partition("#")[0].strip() for line in lines)
    return [line for line in stripped if line]


def readme():
    path = HERE / "README.md"
    return path.read_text(encoding="utf-8") if path.exists() else ""


setup(
    name="liveness",
    version=version(),
    description="Engines that notice each other's death and lose nothing, "
    "over one SQL database",
    long_description=readme(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: OpenStack",
        "Intended Audience :: Developers",
        "Intended Audience :: System Administrators",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Database",
        "Topic :: System :: Clustering",
        "Typing :: Typed",
    ],
    # migrations/ stands at the top of the checkout and is installed inside the
    # package: find_packages would leave it out.
    packages=[
        *find_packages(include=["liveness", "liveness.*"]),
        "liveness.migrations",
        "liveness.migrations.versions",
    ],
    package_dir={
        "liveness.migrations": "migrations",
        "liveness.migrations.versions": "migrations/versions",
    },
    package_data={
        "liveness": ["py.typed"],
        "liveness.migrations": ["alembic.ini", "script.py.mako"],
    },
    include_package_data=False,
    install_requires=requirements("requirements.txt"),
    extras_require={
        # binary: nothing to compile, no libpq to install; 3.2.0 had a broken extra
        "postgresql": ["psycopg[binary]>=3.2.2,<4"],
        "metrics": ["prometheus-client>=0.21,<1"],
        "reports": ["oslo.reports>=3.4,<4"],
        "heat": ["openstack-heat>=27.0,<28"],
    },
    entry_points={
        "console_scripts": [
            "liveness-manage = liveness.cmd.manage:main",
            "liveness-audit = liveness.cmd.audit:main",
            "liveness-web = liveness.cmd.web:main",
            "liveness-engine = liveness.cmd.engine:main",
            "liveness-demo = liveness.demo.main:main",
            "liveness-heat-engine = liveness.heat.launch:main",
            "liveness-heat-manage = liveness.heat.manage:main",
        ],
        "oslo.config.opts": [
            "liveness = liveness.conf:list_opts",
            "liveness.heat = liveness.heat.conf:list_opts",
        ],
        # The name of a group of Heat's: heat-engine imports what is in it.
        "heat.stack_lifecycle_plugins": [
            "liveness = liveness.heat.plugin:LivenessPlugin"
        ],
        # What a patched heat-manage asks: doc/source/heat-manage.rst.
        "heat.manage.commands": ["liveness = liveness.heat.manage:add_parsers"],
    },
)
