/*
 * The ttl is lowered and raised while the engine beats: Heart.configure, Heart.beat,
 * Trust.shorten. An observer waits for the ttl that it read; invariant 5 again.
 *
 * As lease.pml, with two lengths of the lease. What lease.pml has shown not to
 * matter for invariant 5 is left out: gaps in an observation, and what may be lost.
 */

#include "common.pml"

#define LONG  4
#define SHORT 2
#define ttl(short) (short -> SHORT : LONG)

#define LIVE    0
#define FENCED  1

#define IDLE   0
#define FLYING 1
#define ONE    2
#define NONE   3

byte row = LIVE;
byte seq = 1;
bool row_short;              /* the row's ttl */

bool over;
bool set_short;              /* E's settings */
byte sent = 1;
byte beat = IDLE;
bool beat_short;             /* the ttl that the beat in flight announces */
byte sent_age;
byte trust_age;
bool lease_short;            /* how long E trusts itself */
bool late;                   /* a beat that E gave up is still on its way */
byte late_new;
bool late_short;
#define GOOD (!over && trust_age < ttl(lease_short))

bool has;                    /* the observer has read beat_seq "seen" ... */
byte seen;
bool seen_short;             /* ... and this ttl, "silent" ticks ago for the first time */
byte silent;
bool fencing;
byte fence_seen;
byte v, top;

#ifdef M_BEAT_WITHOUT_NUMBERS
#define NUMBER_OK(next) true
#define CAN_BE(n) (seq == n || (late && late_new == n))
#else
#define NUMBER_OK(next) (seq < next)
#define CAN_BE(n) (seq == n)
#endif
#define USED(n) (seq == n || sent == n || (late && late_new == n))

inline lower(x) { if :: x > v -> x-- :: else fi }

inline compress() {
    if :: !CAN_BE(seen) -> seen = 0 :: else fi;
    if :: !CAN_BE(fence_seen) -> fencing = false; fence_seen = 0 :: else fi;
    top = sent;
    v = 1;
    do
    :: v >= top -> break
    :: v < top && USED(v) -> v++
    :: v < top && !USED(v) ->
        lower(seq); lower(sent); lower(late_new); lower(seen); lower(fence_seen);
        top--
    od;
    v = 0; top = 0
}

inline landed() { beat = IDLE; beat_short = false; sent_age = 0 }

proctype Heart() {
end:
    do
    :: d_step {
        !over && beat == IDLE ->
        compress();
        sent++;
        beat = FLYING;
        beat_short = set_short;
#ifndef M_BEAT_ANNOUNCES_FIRST
        lease_short = lease_short || set_short;
#endif
        say("E sends a beat with the ttl of its settings\n")
    }
    :: d_step {
        !over && beat == ONE ->
        witness(SUSPENSION_ENDS, !GOOD && sent_age < ttl(beat_short));
        trust_age = sent_age;
        lease_short = beat_short;
        landed();
        say("E: one row, so it trusts itself for the ttl that it announced\n");
        assert(!GOOD || row == LIVE)
    }
    :: d_step { !over && beat == NONE -> over = true; say("E: no row, it is over\n") }
    :: d_step {
        !over && beat == FLYING && !late ->
        late = true;
        late_new = sent;
        late_short = beat_short;
        landed();
        say("E gives up a beat that is still on its way\n")
    }
    :: d_step { !over && beat != IDLE -> landed(); say("E: no answer comes\n") }
    /* From another thread, while a beat may be in flight. */
    :: d_step {
        !over && !set_short ->
        set_short = true;
#ifndef M_LOWERED_LATER
        lease_short = true;
#endif
        say("E's ttl is lowered\n")
    }
    :: d_step {
        !over && set_short ->
        set_short = false;
#ifdef M_RAISED_AT_ONCE
        lease_short = false;
#endif
        say("E's ttl is raised\n")
    }
    :: d_step { !over -> over = true; say("E dies\n") }
    od
}

proctype Server() {
end:
    do
    :: d_step {
        beat == FLYING ->
        if
        :: row == LIVE && NUMBER_OK(sent) ->
            seq = sent;
            row_short = beat_short;
            beat = ONE;
            say("server: the beat is committed\n")
        :: else ->
            beat = NONE;
            say("server: the beat changes no row\n");
            assert(row != LIVE)
        fi
    }
    :: d_step {
        late ->
        if
        :: row == LIVE && NUMBER_OK(late_new) ->
            witness(LATE_BEAT_COUNTS, row_short && !late_short);
            seq = late_new;
            row_short = late_short;
            say("server: the late beat is committed\n")
        :: else -> say("server: the late beat changes no row\n")
        fi;
        late = false; late_new = 0; late_short = false
    }
    :: d_step {
        late -> late = false; late_new = 0; late_short = false;
        say("the late beat is lost\n")
    }
    od
}

proctype Observe() {
end:
    do
    :: d_step {
        !over && row == LIVE ->
        if
        :: has && seen == seq -> say("observer reads the same beat again\n")
        :: else ->
            has = true; seen = seq; silent = 0;
            say("observer reads another beat: a run begins\n")
        fi;
        seen_short = row_short
    }
    :: d_step {
        !over && has ->
        has = false; seen = 0; silent = 0; seen_short = false;
        say("observer begins anew\n")
    }
    :: d_step {
#ifdef M_OBSERVERS_OWN_TTL
        !over && !fencing && has && silent >= SHORT ->
#else
        !over && !fencing && has && silent >= ttl(seen_short) ->
#endif
        fencing = true;
        fence_seen = seen;
        compress();
        say("observer: silent for the whole ttl; it sends the fence\n")
    }
    :: d_step {
        !over && fencing ->
        if
        :: row == LIVE && seq == fence_seen ->
            row = FENCED;
            say("server: E is fenced\n");
            witness(FENCE_FALLS, true);
            assert(!GOOD)
        :: else ->
            witness(FENCE_MISSES, row == LIVE);
            say("server: the fence changes no row\n")
        fi;
        fencing = false; fence_seen = 0
    }
    :: d_step {
        !over && fencing -> fencing = false; fence_seen = 0;
        say("the fence is lost\n")
    }
    od
}

proctype Clock() {
end:
    do
    :: d_step {
        !over ->
        if :: beat != IDLE -> older(sent_age, LONG) :: else fi;
        older(trust_age, LONG);
        if :: has -> older(silent, LONG) :: else fi;
        say("tick\n")
    }
    od
}

init {
    atomic { run Heart(); run Server(); run Observe(); run Clock() }
}
