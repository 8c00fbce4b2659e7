"""A database that is corrupt by its own word: no verdict, and another run."""

import argparse

import pytest

from tests.chaos import __main__ as program
from tests.chaos.run import Broken, Orders, Run
from tests.chaos.singles import SQLite


class Breaking(SQLite):
    """It says so when it is asked for the time of that number."""

    def __init__(self, number):
        super().__init__(0)
        self._left = number

    def corrupt(self):
        self._left -= 1
        return [] if self._left else ["chaos.liveness_deadline: check: Corrupt"]


@pytest.mark.parametrize("when", ["before the quiet", "after it", "never"])
def test_what_the_database_says_of_itself_is_asked_twice(tmp_path, when):
    number = {"before the quiet": 1, "after it": 2, "never": 3}[when]
    database = Breaking(number)
    database.start()
    try:
        database.prepare()
        run = Run(Orders(1.0, 1), database, tmp_path, lambda line: None)
        if when == "never":
            assert run._end()["deadlines"] == []
        else:
            with pytest.raises(Broken, match="liveness_deadline: check: Corrupt"):
                run._end()
        assert (tmp_path / "database.json").exists() == (when == "never")
    finally:
        database.close()


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
