"""Random numbers: no two alike, whoever draws them."""

from __future__ import annotations

import os
import struct
import threading

from liveness.db import rows
from liveness.db.rows import new_token, new_tokens


def test_no_token_is_drawn_twice_and_each_fits_62_bits():
    drawn = [new_token() for _ in range(3 * rows.TOKENS)] + new_tokens(1000)
    assert len(set(drawn)) == len(drawn)
    assert all(0 <= token < 1 << 62 for token in drawn)
    assert max(drawn) > 1 << 60  # or the chance is one in 4 ** 1384


def test_threads_draw_different_ones():
    drawn: list[int] = []
    begin = threading.Barrier(4)

    def draw() -> None:
        begin.wait()
        drawn.extend([new_token() for _ in range(2000)])

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(drawn)) == len(drawn) == 8000


def test_a_forked_process_draws_others_than_its_parent():
    new_token()  # some are at hand
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        tokens = [new_token() for _ in range(rows.TOKENS)]
        os.write(writer, struct.pack(f"{rows.TOKENS}q", *tokens))
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        theirs = struct.unpack(f"{rows.TOKENS}q", pipe.read())
    os.waitpid(child, 0)
    assert not set(theirs) & {new_token() for _ in range(rows.TOKENS)}
