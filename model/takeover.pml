/*
 * What the dead left is taken over in time: rule 5.1, Sweep._keep_house and
 * _gone_for_good, Engines.purge. E has been fenced. It may own a deadline, and a
 * transaction of its host with an arm in it may commit at any time yet, even when E's
 * row was purged. An observer makes one pass in every tick.
 *
 * A deadline waits for one pass; or, armed when the owner's row was gone, until it has
 * been missing for a whole lease. A bound that is passed is a violation, as in
 * fencing.pml. That nothing is taken from the living is in rows.pml.
 *
 * Switch: CRASH_LOOP (the observer dies every LIFE ticks).
 */
#include "common.pml"

#define TTL  4
#define LIFE 2
#define MOST (3 * TTL)       /* housekeeping, then missing for a lease, then again */

bool e_row = true;           /* E's row, fenced, is there */
bool owned;                  /* E owns a deadline */
bool armed_late;             /* since a time when E's row was gone already */
bool open;                   /* a host's transaction with an arm of E's is not decided */
byte waiting;                /* ticks for which the deadline waits */

bool passed;                 /* the observer has made its pass in this tick */
byte next_house;             /* ticks until it looks for owners that are not alive */
bool missing;                /* it knows that E is missing ... */
byte missing_for;            /* ... for so many ticks */
byte lived;

#ifdef M_PURGES_AN_OWNER
#define PURGEABLE true
#else
#define PURGEABLE (!owned)
#endif

inline take() {
    witness(TAKEN_AT_ONCE, e_row);
    witness(TAKEN_MISSING, !e_row);
    owned = false; armed_late = false; waiting = 0;
    say("observer takes the deadline over\n")
}

inline forget() { missing = false; missing_for = 0; next_house = 0 }

proctype Observer() {
    do
    :: d_step {
        !passed ->
        passed = true;
        say("observer makes a pass\n");
        if
        :: next_house == 0 && owned && !e_row && !missing ->
            missing = true; missing_for = 0; next_house = 1
        :: next_house == 0 && (!owned || e_row) ->
            missing = false; missing_for = 0; next_house = TTL
        :: else -> next_house = (next_house > 0 -> next_house : 1)
        fi;
#ifdef M_TAKEOVER_IS_AN_EVENT /* of the fence, which was long ago */
#define SEEN_DEAD false
#else
#define SEEN_DEAD e_row
#endif
#ifdef M_MISSING_IS_ALIVE
#define GONE false
#else
#define GONE (missing && missing_for >= TTL)
#endif
        if
        :: owned && (SEEN_DEAD || GONE) -> take()
        :: else
        fi
    }
#ifdef CRASH_LOOP
    :: d_step {
        passed && lived >= 1 ->
        lived = 0;
        forget();
        say("observer dies, and its successor knows of none that is missing\n")
    }
#endif
    od
}

proctype Others() {
    do
    :: d_step {
        e_row && PURGEABLE ->
        e_row = false;
        witness(PURGED, open);
        say("E's row is purged\n")
    }
    :: d_step { !open && !owned -> open = true; say("E's host arms\n") }
    :: d_step {
        open && !owned ->
        open = false; owned = true; armed_late = !e_row;
        say("server: the arm is committed\n")
    }
    od
}

proctype Clock() {
    do
    :: d_step {
        passed && lived < LIFE ->
        passed = false;
        if :: owned -> older(waiting, MOST + 1) :: else fi;
        if :: next_house > 0 -> next_house-- :: else fi;
        if :: missing -> older(missing_for, TTL) :: else fi;
#ifdef CRASH_LOOP
        lived++;
        assert(armed_late || waiting <= 1);
#else
        assert(waiting <= (armed_late -> MOST : 1));
#endif
        say("tick\n")
    }
    od
}

init { atomic { run Observer(); run Others(); run Clock() } }
