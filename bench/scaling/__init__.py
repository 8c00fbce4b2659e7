"""Beyond one machine: a fleet of any size, simulated.

The engines are the program's own: heart, trust, detector, sweep, admission, agenda and
loop run unchanged, each engine in two greenlets on simulated time. What is simulated is
the database under them: a store in memory, in front of it servers with so many cores, a
log that is flushed, and service times as ``calibrate`` measured them on a real one.
"""
