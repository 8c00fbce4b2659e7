/*
 * No live victim: invariant 4. Engine E is well and does everything in time; it is the
 * database that stalls, is away, or fails over, and the observers that are slow, paused,
 * cut off, or die. Nobody may fence E then.
 *
 * As lease.pml, with the database's troubles in it. Time goes on only when E has done
 * what is due (see URGENT): a beat every tick, an answer taken at once, a beat given up
 * after TIMEOUT. What is promised is one outage, stall or failover per lease, however
 * long: a database that fails again and again, each time when E beats, keeps E from
 * committing, and then E is fenced, and has stopped trusting itself before (lease.pml).
 *
 * Switches: OBSERVERS, FAILOVER (which every observer notices), HIDDEN_FAILOVER (which
 * none does, behind a proxy that keeps connections and names; in the middle of a stall
 * it is a second trouble), MEMORY.
 */

#include "common.pml"

#ifdef HIDDEN_FAILOVER
#define FAILOVER
#endif
#ifndef TTL
#define TTL 4
#endif
#ifndef OBSERVERS
#define OBSERVERS 1
#endif
#define GAP      (TTL / 4)
#define WAIT     TTL
#define INTERVAL 1           /* E's beats; the code demands less than TTL / 4 */
#define TIMEOUT  1           /* of a statement; the code demands less than TTL / 3 */

#define LIVE    0
#define FENCED  1

#define OK    0
#define STALL 1              /* reads are answered, writes hang */
#define DOWN  2

#define IDLE   0
#define FLYING 1
#define ONE    2
#define HUNG   3             /* its server is gone */

byte db = OK;
byte row = LIVE;
byte seq = 1;
#ifdef FAILOVER
byte standby_seq = 1;
#endif
#ifdef HIDDEN_FAILOVER
byte standby_episodes;       /* since the beat that the standby has */
#endif

byte sent = 1;
byte beat = IDLE;
byte sent_age;               /* ticks since E's latest beat was sent */
bool trouble;                /* the database's, during that beat */
byte episodes;               /* of trouble since E's last committed beat, up to 2 */

typedef Observer {
    bool has;
    byte seen;
    byte silent;             /* as in lease.pml */
    byte asked_age;
    byte own_age;
    bool fencing;
    byte fence_seen;
#ifdef MEMORY
    bool down;
#endif
};
Observer o[OBSERVERS];
byte v, top;

#ifdef FAILOVER
#define CAN_BE(n) (seq == n || standby_seq == n)
#else
#define CAN_BE(n) (seq == n)
#endif
#define USED(n) (CAN_BE(n) || sent == n)
#ifdef M_REPEATED_NUMBERS    /* their size matters then: nothing is forgotten */
#define FORGETS false
#else
#define FORGETS true
#endif

inline lower(x) { if :: x > v -> x-- :: else fi }

inline lower_all() {
    lower(seq); lower(sent);
    lower(o[0].seen); lower(o[0].fence_seen);
#if OBSERVERS > 1
    lower(o[1].seen); lower(o[1].fence_seen);
#endif
#ifdef FAILOVER
    lower(standby_seq);
#endif
    top--
}

inline compress() {
    for (v : 0 .. OBSERVERS - 1) {
        if :: !CAN_BE(o[v].seen) && FORGETS -> o[v].seen = 0 :: else fi;
        if
        :: !CAN_BE(o[v].fence_seen) && FORGETS ->
            o[v].fencing = false; o[v].fence_seen = 0
        :: else
        fi
    }
    top = (FORGETS -> sent : 0);
    v = 1;
    do
    :: v >= top -> break
    :: v < top && USED(v) -> v++
    :: v < top && !USED(v) -> lower_all()
    od;
    v = 0; top = 0
}

/* --- E, in time ----------------------------------------------------------------- */
inline landed() { beat = IDLE; trouble = false }

proctype Heart() {
    do
    :: d_step {
        row == LIVE && beat == IDLE && sent_age > 0 ->
        compress();
        sent++;
        sent_age = 0;
        beat = FLYING;
        trouble = (db != OK);
        say("E sends a beat\n")
    }
    :: d_step { beat == ONE -> landed(); say("E: the beat is acknowledged\n") }
    :: d_step {
        beat != IDLE && trouble ->
        landed();
        say("E: no answer comes\n")
    }
    od
}

#define URGENT \
    (row == LIVE && \
     ((beat == IDLE && sent_age >= INTERVAL && db == OK) \
      || (beat == FLYING && !trouble) \
      || ((beat == FLYING || beat == HUNG) && sent_age >= TIMEOUT) \
      || beat == ONE))

proctype Server() {
    do
    :: d_step {
        row == LIVE && beat == FLYING && db == OK ->
#ifdef M_REPEATED_NUMBERS    /* SET beat_seq = beat_seq + 1 */
        seq++;
#else
        seq = sent;
#endif
        beat = ONE;
        episodes = 0;
        say("server: the beat is committed\n")
    }
    od
}

/* --- an observer, at any time -------------------------------------------------------- */
#ifdef M_READINGS_ALONE
#define OWN_BEATS_SPAN(i) true
#else
#define OWN_BEATS_SPAN(i) (o[i].own_age <= GAP)
#endif
#ifdef MEMORY
#define AWAKE (!o[me].down)
#else
#define AWAKE true
#endif

inline forget_run(i) {
    o[i].has = false; o[i].seen = 0; o[i].silent = 0; o[i].asked_age = 0
}

proctype Observe(byte me) {
    do
    :: d_step {
        AWAKE && row == LIVE && db != DOWN ->
        if
        :: o[me].has && o[me].seen == seq -> say("observer reads the same beat again\n")
        :: else ->
            o[me].has = true; o[me].seen = seq; o[me].silent = 0;
            say("observer reads another beat: a run begins\n")
        fi;
        o[me].asked_age = 0
    }
    :: d_step {
        AWAKE && row == LIVE && o[me].has ->
        forget_run(me);
        say("observer's connection is lost: it begins anew\n")
    }
    :: d_step {
        AWAKE && row == LIVE && !o[me].fencing && o[me].has &&
        o[me].silent >= WAIT && OWN_BEATS_SPAN(me) ->
        o[me].fencing = true;
        o[me].fence_seen = o[me].seen;
        compress();
        say("observer: silent for a whole lease; it sends the fence\n")
    }
    :: d_step {
        row == LIVE && o[me].fencing && db == OK ->
        if
        :: seq == o[me].fence_seen ->
            row = FENCED;
            say("server: E is fenced\n");
            witness(FENCE_FALLS, true);
            assert(episodes > 1)                       /* invariant 4 */
        :: else ->
            witness(FENCE_MISSES, true);
            say("server: the fence changes no row\n")
        fi;
        o[me].fencing = false; o[me].fence_seen = 0
    }
    :: d_step {
        row == LIVE && o[me].fencing ->
        o[me].fencing = false; o[me].fence_seen = 0;
        say("the fence is lost\n")
    }
    :: d_step {
        AWAKE && row == LIVE && db == OK && o[me].own_age > 0 ->
        o[me].own_age = 0;
        say("observer's own beat is committed\n")
    }
#ifdef MEMORY
    :: d_step {
        AWAKE && row == LIVE && o[me].has ->
        o[me].down = true;
        say("observer dies; what it saw is kept\n")
    }
    :: d_step {
        o[me].down && row == LIVE && db == OK ->
        o[me].down = false;
        witness(RUN_IS_INHERITED, o[me].has && o[me].silent > 0);
        o[me].own_age = 0;
        say("observer's successor registers and goes on from there\n")
    }
#endif
    od
}

/* --- the database's troubles ------------------------------------------------------------ */
inline another_episode() {
    older(episodes, 2);
#ifdef HIDDEN_FAILOVER
    older(standby_episodes, 2)
#endif
}

#ifdef HIDDEN_FAILOVER       /* in a stall, it is a trouble of its own */
#define ALONE true
#else
#define ALONE (db == OK)
#endif

proctype Nemesis() {
    do
    :: d_step {
        row == LIVE && db == OK ->
        another_episode();
        trouble = (beat != IDLE);
        db = STALL;
        say("writes hang, reads are answered\n")
    }
    :: d_step {
        row == LIVE && db == OK ->
        another_episode();
        trouble = (beat != IDLE);
        db = DOWN;
        say("the database is away\n")
    }
    :: d_step { row == LIVE && db != OK -> db = OK; say("the database is back\n") }
#ifdef FAILOVER
    :: d_step {
        row == LIVE && standby_seq != seq ->
        standby_seq = seq;
#ifdef HIDDEN_FAILOVER
        standby_episodes = episodes;
#endif
        say("the standby catches up\n")
    }
    :: d_step {
        row == LIVE && standby_seq != seq ->
        if :: ALONE -> another_episode() :: else fi;
        witness(FAILOVER_LOSES, beat == IDLE && seq == sent);
        seq = standby_seq;
#ifdef HIDDEN_FAILOVER
        episodes = standby_episodes;
#endif
        if :: beat == FLYING -> beat = HUNG :: else fi;
        trouble = (beat != IDLE);
        for (v : 0 .. OBSERVERS - 1) {
            o[v].fencing = false; o[v].fence_seen = 0;
#ifndef HIDDEN_FAILOVER
            forget_run(v)
#endif
        }
        compress();
        say("failover: the standby takes over without the latest commits\n")
    }
#endif
    od
}

/* --- time ----------------------------------------------------------------------------------- */
#if defined(M_NO_GAP_OF_READINGS)
#define BREAKS(i) false
#elif defined(M_MEMORY_OVER_A_GAP)
#define BREAKS(i) (!o[i].down)
#else
#define BREAKS(i) true
#endif
#ifdef M_MEMORY_OVER_A_GAP
#define SPANS(i) (o[i].down || OWN_BEATS_SPAN(i))
#else
#define SPANS(i) OWN_BEATS_SPAN(i)
#endif

inline observer_tick() {
    older(o[v].own_age, GAP + 1);
    if
    :: o[v].has && o[v].asked_age >= GAP && BREAKS(v) -> forget_run(v)
    :: o[v].has && o[v].asked_age < GAP -> o[v].asked_age++
    :: else
    fi;
    if
    :: o[v].has && SPANS(v) -> older(o[v].silent, WAIT)
    :: else -> o[v].silent = 0
    fi
}

proctype Clock() {
    do
    :: row != LIVE -> skip      /* so that any other standstill is an error */
    :: d_step {
        row == LIVE && !URGENT ->
        older(sent_age, TTL);
        for (v : 0 .. OBSERVERS - 1) { observer_tick() }
        v = 0;
        say("tick\n")
    }
    od
}

init {
    atomic {
        run Heart();
        run Server();
        run Observe(0);
#if OBSERVERS > 1
        run Observe(1);
#endif
        run Nemesis();
        run Clock()
    }
}
