/*
 * The lease: engine E beats, observers watch it, its trust lapses, fences fall.
 * What heart.py, trust.py, detector.py, memory.py and db/engines.py do, and
 * invariant 5: nobody fences an engine that still trusts itself. (4 is in alive.pml.)
 *
 * Each step is one local action or one statement at the server, and any step may
 * be late without limit, or its answer lost. Time is unbounded: an age is counted up
 * to the value at which it stops to matter, and beat numbers keep their order, not
 * their size. So the states are finite, and runs of every length are among them.
 *
 * Switches, see run.py: OBSERVERS, SLOW_READS, FAILOVER, MEMORY, DRIFT. Those that
 * begin with M_ are mutants: one guard of the protocol is taken out.
 */

#include "common.pml"

#ifndef TTL
#define TTL 4
#endif
#ifndef OBSERVERS
#define OBSERVERS 1
#endif
#define GAP   (TTL / 4)      /* between readings, and between own beats */
#define LEASE TTL            /* lease_margin is 0: safety does not rest on it */
#if defined(DRIFT) && !defined(M_NO_DRIFT_ALLOWANCE)
#define WAIT  (TTL + 2)      /* the clocks differ by one tick in TTL ticks */
#else
#define WAIT  TTL
#endif

/* E's row. Draining is live for everybody here; stopped is as final as fenced. */
#define LIVE    0
#define FENCED  1
#define STOPPED 2

/* E's beat: not sent; at the server; answered "one row"; answered "no row"; its
 * server is gone, so that no answer comes. */
#define IDLE   0
#define FLYING 1
#define ONE    2
#define NONE   3
#define HUNG   4

byte row = LIVE;
byte seq = 1;                /* the row's beat_seq */
bool over;                   /* E is dead, or stopped, or has learned of its fence */
byte sent = 1;               /* the number of its latest beat */
byte beat = IDLE;
byte sent_age;               /* ticks since the beat in flight was sent */
byte trust_age;              /* ticks since the last acknowledged one was sent */
bool late;                   /* a beat that E gave up is still on its way */
byte late_new;
#define GOOD (!over && trust_age < LEASE)

#ifdef FAILOVER              /* an asynchronous standby has some prefix */
byte standby_row = LIVE;
byte standby_seq = 1;
#endif

/* What E knows of its numbers; only mutants of the beat's WHERE look at it. */
#if defined(M_BEAT_WITH_FLOOR) || defined(M_BEAT_WITHOUT_RANGE)
#define WITH_FLOOR
byte acked = 1;
byte late_floor;
#endif
#ifdef M_FENCE_BY_LEASE_END  /* the lease end in the row, by its server's clock */
byte row_age;
#define SKEW 1               /* another server's clock is ahead by that much */
#endif

typedef Observer {
    bool has;                /* there is a run of equal readings */
    byte seen;               /* their beat_seq; 0: one that can never be again */
    byte silent;             /* ticks for which the readings were equal and unbroken,
                                and its own beats, too */
    byte asked_age;          /* ticks since the latest reading was sent */
    byte own_age;            /* ticks since its own latest committed beat */
    bool fencing;            /* a fence is on its way to the server */
    byte fence_seen;
#ifdef SLOW_READS
    bool asking;             /* a reading is on its way */
    byte ask_age;
#endif
#ifdef MEMORY
    bool down;               /* between two incarnations */
    bool elsewhere;          /* the server is not the one that memory is of */
#endif
};
Observer o[OBSERVERS];
#ifdef DRIFT
byte steps;                  /* E's ticks since the clocks were last out of step */
#endif
byte v, top;                 /* scratch; 0 between steps */

/* --- what the two statements' WHERE say --------------------------------------- */
/* UPDATE … SET beat_seq = :next WHERE state alive AND beat_seq < :next */
#if defined(M_BEAT_WITHOUT_RANGE)
#define NUMBER_OK(floor, next) (seq == floor)
#elif defined(M_BEAT_WITH_FLOOR)
#define NUMBER_OK(floor, next) (seq >= floor && seq < next)
#else
#define NUMBER_OK(floor, next) (seq < next)
#endif
#ifdef M_BEAT_WITHOUT_STATE
#define BEAT_COUNTS(floor, next) NUMBER_OK(floor, next)
#else
#define BEAT_COUNTS(floor, next) (row == LIVE && NUMBER_OK(floor, next))
#endif

/* UPDATE … SET state = fenced WHERE state alive AND beat_seq = :seen */
#if defined(M_FENCE_BY_LEASE_END)
#define FENCE_HAS_NUMBER false
#define FENCE_COUNTS (row == LIVE && row_age + SKEW >= TTL)
#elif defined(M_FENCE_WITHOUT_NUMBER)
#define FENCE_HAS_NUMBER false
#define FENCE_COUNTS (row == LIVE)
#else
#define FENCE_HAS_NUMBER true
#define FENCE_COUNTS (row == LIVE && seq == o[me].fence_seen)
#endif

/* --- numbers keep their order, not their size --------------------------------- */
#ifdef FAILOVER
#define STANDBY_HAS(n) (standby_seq == n)
#else
#define STANDBY_HAS(n) false
#endif
#ifdef WITH_FLOOR
#define FLOOR_IS(n) (acked == n || (late && late_floor == n))
#else
#define FLOOR_IS(n) false
#endif
#define CAN_BE(n) (seq == n || STANDBY_HAS(n))
#define USED(n) (seq == n || sent == n || (late && late_new == n) \
                 || STANDBY_HAS(n) || FLOOR_IS(n))

inline lower(x) { if :: x > v -> x-- :: else fi }

inline lower_all() {
    lower(seq); lower(sent); lower(late_new);
    lower(o[0].seen); lower(o[0].fence_seen);
#if OBSERVERS > 1
    lower(o[1].seen); lower(o[1].fence_seen);
#endif
#ifdef FAILOVER
    lower(standby_seq);
#endif
#ifdef WITH_FLOOR
    lower(acked); lower(late_floor);
#endif
    top--
}

/* What an observer saw and nobody can see again is no number any more. */
inline compress() {
    for (v : 0 .. OBSERVERS - 1) {
        if
        :: !CAN_BE(o[v].seen) -> o[v].seen = 0
        :: else
        fi;
        if
        :: !CAN_BE(o[v].fence_seen) && FENCE_HAS_NUMBER ->
            o[v].fencing = false; o[v].fence_seen = 0
        :: else
        fi
    }
    top = sent;
    v = 1;
    do
    :: v >= top -> break
    :: v < top && USED(v) -> v++
    :: v < top && !USED(v) -> lower_all()
    od;
    v = 0; top = 0
}

/* --- E's heart ------------------------------------------------------------------- */
inline renew() {
#ifdef WITH_FLOOR
    acked = sent;
#endif
#ifdef M_TRUST_FROM_ANSWER
    trust_age = 0
#else
    trust_age = sent_age
#endif
}

inline landed() { beat = IDLE; sent_age = 0 }

proctype Heart() {
end:
    do
    :: d_step {
        !over && beat == IDLE ->
        compress();
        sent++;
        beat = FLYING;
        say("E sends a beat\n")
    }
    :: d_step {
        !over && beat == ONE ->
        witness(SUSPENSION_ENDS, trust_age == LEASE && sent_age < LEASE);
        renew();
        landed();
        say("E: one row, so it trusts itself from when it sent the beat\n");
        assert(!GOOD || row == LIVE)                   /* invariant 5 */
    }
    :: d_step {
        !over && beat == NONE ->
#ifdef M_BEAT_WITHOUT_ROW_COUNT
        renew();
        landed();
        say("E: answered, so it trusts itself\n");
        assert(!GOOD || row == LIVE)
#else
        over = true;
        witness(FENCE_IS_LEARNED, true);
        say("E: no row, so it is over\n")
#endif
    }
    :: d_step {
        !over && beat == FLYING && !late ->
        late = true;
        late_new = sent;
#ifdef WITH_FLOOR
        late_floor = acked;
#endif
        landed();
        say("E gives up a beat that is still on its way\n")
    }
    :: d_step {
        !over && beat != IDLE ->
        landed();
        say("E: no answer comes\n")
    }
#ifdef M_RESIGN_TRUSTED
    :: d_step {
        !over && beat == IDLE && row == LIVE ->
        row = STOPPED;
        say("server: E has resigned\n");
        assert(!GOOD)
    }
#endif
    /* It dies; or drops its trust, to resign. Nothing that follows can harm. */
    :: d_step { !over -> over = true; say("E dies\n") }
    od
}

/* --- the server executes what is on its way to it ---------------------------------- */
inline committed(number) {
    seq = number;
#ifdef M_FENCE_BY_LEASE_END
    row_age = 0
#endif
}

proctype Server() {
end:
    do
    :: d_step {
        beat == FLYING ->
        if
        :: BEAT_COUNTS(acked, sent) ->
            committed(sent);
            beat = ONE;
            say("server: the beat is committed\n")
        :: else ->
            beat = NONE;
            say("server: the beat changes no row\n");
            assert(row != LIVE)            /* invariant 4: over means fenced */
        fi
    }
    :: d_step {
        late ->
        if
        :: BEAT_COUNTS(late_floor, late_new) ->
            committed(late_new);
            witness(LATE_BEAT_COUNTS, true);
            say("server: the late beat is committed\n")
        :: else -> say("server: the late beat changes no row\n")
        fi;
        late = false; late_new = 0
    }
    :: d_step { late -> late = false; late_new = 0; say("the late beat is lost\n") }
    od
}

/* --- an observer ---------------------------------------------------------------------- */
#ifdef M_FENCE_BY_LEASE_END
#define SILENT (row_age + SKEW >= TTL)
#else
#define SILENT (o[me].silent >= WAIT && o[me].own_age <= GAP)
#endif

#ifdef SLOW_READS
#define ASK_AGE o[me].ask_age
#else
#define ASK_AGE 0
#endif
#ifdef M_RUN_FROM_SEND
#define RUN_STARTS ASK_AGE
#else
#define RUN_STARTS 0
#endif

#ifdef MEMORY
#define AWAKE (!o[me].down)
#else
#define AWAKE true
#endif

inline forget_run(i) {
    o[i].has = false; o[i].seen = 0; o[i].silent = 0; o[i].asked_age = 0
}

inline reconnect(i) {
    forget_run(i);
#ifdef SLOW_READS
    o[i].asking = false; o[i].ask_age = 0;
#endif
}

inline reading() {
    if
    :: row != LIVE -> forget_run(me); say("observer reads: no live E\n")
    :: row == LIVE && ASK_AGE > GAP ->
        forget_run(me); say("observer's reading took too long\n")
    :: row == LIVE && ASK_AGE <= GAP ->
        if
        :: o[me].has && o[me].seen == seq ->
            say("observer reads the same beat again\n")
        :: else ->
            o[me].has = true;
            o[me].seen = seq;
            o[me].silent = RUN_STARTS;
            say("observer reads another beat: a run begins\n")
        fi;
        o[me].asked_age = ASK_AGE
    fi;
#ifdef SLOW_READS
    o[me].asking = false; o[me].ask_age = 0;
#endif
#ifdef MEMORY
    o[me].elsewhere = false
#endif
}

proctype Observe(byte me) {
end:
    do
#ifdef SLOW_READS
    :: d_step {
        AWAKE && !over && !o[me].asking ->
        o[me].asking = true;
        say("observer sends a reading\n")
    }
    :: d_step { AWAKE && !over && o[me].asking -> reading() }
#else
    :: d_step { AWAKE && !over -> reading() }
#endif
    /* Its connection broke, or it died: the next one has seen nothing. */
#ifndef M_RECONNECT_CONTINUES
    :: d_step {
        AWAKE && !over && o[me].has ->
        reconnect(me);
        say("observer's connection is lost: it begins anew\n")
    }
#endif
    :: d_step {
        AWAKE && !over && !o[me].fencing && o[me].has && SILENT ->
        o[me].fencing = true;
#ifdef M_FENCE_WHAT_IS_THERE
        o[me].fence_seen = seq;
#else
        o[me].fence_seen = o[me].seen;
#endif
        compress();
        say("observer: silent for a whole lease; it sends the fence\n")
    }
    :: d_step {
        !over && o[me].fencing ->
        if
        :: FENCE_COUNTS ->
            row = FENCED;
            say("server: E is fenced\n");
            witness(FENCE_FALLS, true);
            assert(!GOOD)                              /* invariant 5 */
        :: else ->
            witness(FENCE_MISSES, row == LIVE);
            say("server: the fence changes no row\n")
        fi;
        o[me].fencing = false; o[me].fence_seen = 0
    }
    :: d_step {
        !over && o[me].fencing ->
        o[me].fencing = false; o[me].fence_seen = 0;
        say("the fence is lost\n")
    }
    :: d_step {
        AWAKE && !over && o[me].own_age > 0 ->
        o[me].own_age = 0;
        say("observer's own beat is committed\n")
    }
#ifdef MEMORY
    :: d_step {
        AWAKE && !over && o[me].has ->
        o[me].down = true;
#ifdef SLOW_READS
        o[me].asking = false; o[me].ask_age = 0;
#endif
        say("observer dies; what it saw is kept\n")
    }
    :: d_step {
        o[me].down && !over ->
        o[me].down = false;
#ifdef M_MEMORY_OF_ANOTHER_SERVER
        o[me].elsewhere = false;
#endif
        if
        :: o[me].elsewhere -> forget_run(me); o[me].elsewhere = false
        :: else -> witness(RUN_IS_INHERITED, o[me].silent > 0)
        fi;
        o[me].own_age = 0;
        say("observer's successor registers and goes on from there\n")
    }
#endif
    od
}

/* --- a failover that loses commits ------------------------------------------------------ */
#ifdef FAILOVER
inline lose_connections() {
    o[v].fencing = false; o[v].fence_seen = 0;
#ifdef MEMORY
    if
    :: o[v].down -> o[v].elsewhere = true
    :: else -> reconnect(v)
    fi
#else
#ifndef M_RECONNECT_CONTINUES
    reconnect(v)
#endif
#endif
}

proctype Failover() {
end:
    do
    :: d_step {
        !over && (standby_seq != seq || standby_row != row) ->
        standby_seq = seq; standby_row = row;
        say("the standby catches up\n")
    }
    :: d_step {
        !over && (standby_seq != seq || standby_row != row) ->
        seq = standby_seq; row = standby_row;
        if :: beat == FLYING -> beat = HUNG :: else fi;
        late = false; late_new = 0;
        for (v : 0 .. OBSERVERS - 1) { lose_connections() }
        compress();
        say("failover: the standby takes over without the latest commits\n")
    }
    od
}
#endif

/* --- time --------------------------------------------------------------------------------- */
/* A run over which too long a gap has opened can only begin anew: it is forgotten at
 * once. One that its own beats do not span counts from the next of them. */
inline observer_tick() {
#ifdef SLOW_READS
    if :: o[v].asking -> older(o[v].ask_age, GAP + 1) :: else fi;
#endif
    older(o[v].own_age, GAP + 1);
    if
    :: o[v].has && o[v].asked_age >= GAP -> forget_run(v)
    :: o[v].has && o[v].asked_age < GAP -> o[v].asked_age++
    :: else
    fi;
    if
    :: o[v].has && o[v].own_age <= GAP -> older(o[v].silent, WAIT)
    :: else -> o[v].silent = 0
    fi
}

inline engine_tick() {
    if :: beat != IDLE -> older(sent_age, LEASE) :: else fi;
    older(trust_age, LEASE);
#ifdef M_FENCE_BY_LEASE_END
    older(row_age, TTL)
#endif
}

inline observers_tick() {
    for (v : 0 .. OBSERVERS - 1) { observer_tick() }
    v = 0
}

#ifdef DRIFT
#define DRIFT_TICK older(steps, TTL);
#else
#define DRIFT_TICK
#endif

proctype Clock() {
end:
    do
    :: d_step { !over -> engine_tick(); observers_tick(); DRIFT_TICK say("tick\n") }
#ifdef DRIFT
    :: d_step {
        !over && steps >= TTL ->
        observers_tick();
        steps = 0;
        say("a tick of the observers' clocks alone\n")
    }
#endif
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
#ifdef FAILOVER
        run Failover();
#endif
        run Clock()
    }
}
