"""A database that is corrupt by its own word: no verdict, and another run."""

import argparse

import pytest

from tests.chaos import __main__ as program
from tests.chaos.database import Database
from tests.chaos.run import Broken, Orders, Run


class Corrupt(Database):
    def corrupt(self):
        return ["chaos.liveness_deadline: check: error: Corrupt"]


def test_what_the_database_says_of_itself_is_the_reason(tmp_path):
    run = Run(Orders(1.0, 1), Corrupt(4), tmp_path)
    with pytest.raises(Broken, match="liveness_deadline: check: error: Corrupt"):
        run._require_whole()
    Run(Orders(1.0, 1), Database(4), tmp_path)._require_whole()


@pytest.mark.parametrize("broken", range(program.TRIES + 1))
def test_the_run_is_made_again_with_the_next_seed(monkeypatch, capsys, broken):
    seeds = []

    def run(options, mutant):
        seeds.append(options.seed)
        if len(seeds) <= broken:
            raise Broken("the database has broken: why")
        return {"seed": options.seed}

    monkeypatch.setattr(program, "_run", run)
    options = argparse.Namespace(seed=5)
    if broken < program.TRIES:
        assert program.run(options, None) == {"seed": 5 + broken}
    else:
        with pytest.raises(Broken):
            program.run(options, None)
    assert seeds == [5, 6, 7][: broken + 1]
    assert options.seed == 5
    assert capsys.readouterr().err.count("why") == min(broken, program.TRIES - 1)
