"""``liveness-audit``: for cron. It looks, says what is wrong, and only that."""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import json
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from liveness import exceptions
from liveness.cmd import app, base, engines

if TYPE_CHECKING:
    from liveness.audit import Finding
    from liveness.conf import Settings

CLEAN, FOUND, BLIND = 0, 1, 2


class Audit(app.Command):
    """Look for what is wrong; silent when all is well

    Each finding has a stable code, a severity (critical, warning, info), a subject, a
    sentence and a remedy. Changes nothing, unless told to --recover.

    Exit code 0: nothing found. 1: findings. 2: the database could not be looked at.
    """

    failed = BLIND
    examples = (
        "audit --config-file /etc/liveness/liveness.conf",
        "audit -f json --timeout 20 --ignore deadline-parked",
        "audit --recover --wait",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add = parser.add_argument
        add(
            "-f",
            "--format",
            choices=["text", "json", "csv"],
            default="text",
            help="json: one object with 'findings'",
        )
        add(
            "--ignore",
            action="append",
            default=[],
            metavar="CODE",
            help="leave out findings of this code; repeat it for more",
        )
        add(
            "--known-kind",
            action="append",
            default=[],
            metavar="KIND",
            help="a kind that engines elsewhere have a handler for, in addition to"
            " those installed here; repeat it",
        )
        add(
            "--timeout",
            type=engines.seconds,
            default=30.0,
            metavar="SECONDS",
            help="give up, with exit code 2, when looking takes longer (30)",
        )
        add(
            "--recover",
            action="store_true",
            help="run the sweep that the findings call for, then look again; as"
            " 'liveness-manage sweep' does",
        )
        add(
            "--wait",
            action="store_true",
            help="with --recover: also observe silent engines, for a whole ttl",
        )
        return parser

    def take_action(self, args: argparse.Namespace) -> int:
        from liveness import audit

        if args.wait and not args.recover:
            raise app.Usage("--wait goes with --recover")
        for code in args.ignore:
            if code not in self.remedies():
                known = ", ".join(self.remedies())
                raise app.Usage(f"there is no code {code!r}; there are {known}")
        settings = self.settings(args)
        found = self._look(args, settings)
        recovered: dict[str, int] | None = None
        skipped: list[str] = []
        if args.recover and any(f.code in audit.BY_SWEEP for f in found):
            recovered, skipped = self._recover(args, settings, found)
            found = self._look(args, settings)
        self._show(args, found, recovered, skipped)
        return FOUND if found else CLEAN

    def remedies(self) -> Mapping[str, tuple[str, str]]:
        """What there is to find: the severity of each code, and what to do."""
        from liveness import audit

        return audit.REMEDIES

    def _look(self, args: argparse.Namespace, settings: Settings) -> list[Finding]:
        from liveness import audit
        from liveness.clock import Clock
        from liveness.cmd.sweep import installed

        kinds = {*args.known_kind, *installed(settings)}
        with limited(args.timeout), self.database(args) as connection:
            looked = audit.Audit(Clock(), settings, kinds).findings(connection)
            return [finding for finding in looked if finding.code not in args.ignore]

    def _recover(
        self, args: argparse.Namespace, settings: Settings, found: list[Finding]
    ) -> tuple[dict[str, int], list[str]]:
        from liveness.cmd import sweep

        done = sweep.by_hand(settings, wait=args.wait, timeout=settings.drain_timeout)
        silent = [f.subject for f in found if f.code == "engine-silent"]
        skipped = [] if args.wait else silent
        return {name: number for name, number in done.items() if number}, skipped

    def _show(
        self,
        args: argparse.Namespace,
        found: list[Finding],
        recovered: dict[str, int] | None,
        skipped: list[str],
    ) -> None:
        out = self.app.stdout
        rows = [dataclasses.asdict(finding) for finding in found]
        if args.format == "json":
            shown: dict[str, Any] = {"findings": rows}
            if recovered is not None:
                shown.update(recovered=recovered, skipped=skipped)
            json.dump(shown, out, indent=2)
            out.write("\n")
            return
        if args.format == "csv":
            from liveness.audit import Finding

            names = [field.name for field in dataclasses.fields(Finding)]
            writer = csv.DictWriter(out, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            return
        if recovered:
            numbers = (f"{number} {name}" for name, number in recovered.items())
            out.write(f"A sweep by hand: {', '.join(numbers)}.\n")
        for subject in skipped:
            out.write(f"Skipped {subject}: only --wait observes it for a whole ttl.\n")
        for finding in found:
            out.write(
                f"{finding.severity.upper()} {finding.code} {finding.subject}:"
                f" {finding.message} Remedy: {finding.remedy}\n"
            )


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """End the block with an error after so long, whatever it waits for."""

    def over(number: int, frame: Any) -> None:
        raise exceptions.LivenessError(reason=f"looking took more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def program() -> app.Single:
    """``liveness-audit``."""
    return app.Single(
        "liveness-audit",
        "Look for what is wrong with engines and deadlines.",
        "audit",
        "liveness.cmd.audit:Audit",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0: nothing found; 1: findings; 2: could not look."""
    made = program()
    try:
        code = made.run(sys.argv[1:] if argv is None else argv)
    except SystemExit as stop:  # after --help
        code = stop.code if isinstance(stop.code, int) else 0
    return base.flushed(made.NAME, code)


if __name__ == "__main__":
    sys.exit(main())
