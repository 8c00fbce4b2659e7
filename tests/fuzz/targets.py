"""The properties as targets of atheris: ``python -m tests.fuzz.targets NAME ARGS``,
with libFuzzer's arguments."""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings

QUIET = settings(
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    max_examples=1,
)


def config(folder: Path) -> Any:
    from tests.fuzz import hostile, properties

    return given(data=hostile.FILES)(properties.a_file_is_read_or_refused)


def option(folder: Path) -> Any:
    from tests.fuzz import hostile, properties

    made = given(name=hostile.NAMES, value=hostile.VALUES)
    return made(properties.an_option_is_taken_or_refused)


def payload(folder: Path) -> Any:
    from liveness.db import migration
    from tests.clock import SettableClock
    from tests.fleet import Driven, Recorder
    from tests.fuzz import hostile, properties

    url = f"sqlite:///{folder}/payload.db"
    migration.sync(url)
    driven = Driven(url, SettableClock(), (Recorder(),), payload_limit=1 << 20)

    def comes_back(payload: Any) -> None:
        properties.a_payload_comes_back_or_is_refused(driven, payload)

    return given(payload=hostile.PYTHON)(comes_back)


def text(folder: Path) -> Any:
    from tests.fuzz import hostile, properties

    return given(text=hostile.RAW)(properties.a_text_is_a_payload_or_a_problem)


def command(folder: Path) -> Any:
    from tests.fuzz import hostile, properties

    url = properties.fresh(folder)

    def ends_well(argv: list[str]) -> None:
        properties.a_command_ends_well("liveness-manage", argv)

    return given(argv=hostile.command_lines(url))(ends_well)


def row(folder: Path) -> Any:
    from liveness.db import migration
    from tests.fuzz import hostile, properties

    url = f"sqlite:///{folder}/rows.db"
    migration.sync(url)

    def goes_on(written: Any) -> None:
        properties.an_engine_goes_on(url, written)

    return given(written=hostile.WRITTEN)(goes_on)


TARGETS: dict[str, Callable[[Path], Any]] = {
    made.__name__: made for made in (config, option, payload, text, command, row)
}


def main() -> None:
    import atheris

    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=["liveness"]):
        import liveness.cmd.manage  # noqa: F401
        from tests.fuzz import properties  # noqa: F401
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="liveness-fuzz-") as folder:
        target = QUIET(TARGETS[name](Path(folder)))
        atheris.Setup(sys.argv, target.hypothesis.fuzz_one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
