/*
 * Somebody is able to fence: rules 4.6, 4.7 and 4.9. An engine E that is gone, or beats
 * and does nothing, is fenced within a bounded time, by an observer that works and is
 * in time. (That nobody is fenced wrongly is in lease.pml and alive.pml.)
 *
 * Time goes on only when everybody has done what is due. The database may stall once, at
 * any time and for up to STALLS ticks; the wait is counted from E's end, or from the
 * stall's. A bound that is passed is a violation, so this is liveness checked as safety.
 *
 * Switches: CRASH_LOOP (the observer dies every LIFE ticks, less than a lease; what it saw
 * is kept), WATCHDOG (E does not die, but its loop gets stuck), PROOF (the observer may
 * be able to look E's process up).
 */

#include "common.pml"

#define TTL    4
#define GAP    (TTL / 4)
#define WAIT   TTL
#define STALLS 3
#define LIFE   2             /* the observer dies between two passes, not in one */
#ifdef WATCHDOG
#define BOUND  (2 * TTL + 1) /* the lease of the loop, then that of the heart */
#else
#define BOUND  (TTL + 1)
#endif
#define MOST   (BOUND + TTL)

bool fenced;
bool gone;                   /* E's process is dead */
bool stuck;                  /* E's loop does not come round */
byte stuck_for;
byte waiting;                /* ticks since E should be fenced, up to BOUND + 1 */
bool beaten = true;          /* E has beaten in this tick */
bool visible;                /* the observer shares E's machine and namespaces */

bool stall;                  /* writes hang */
byte stalls;                 /* ticks for which they may do so yet */

bool has, current;           /* a run, of the beat that is in the row */
byte run_age;                /* ticks since its first reading */
byte asked_age;              /* ticks since its latest */
byte own_age;                /* ticks since the observer's own latest beat */
byte chain_age;              /* ticks since the first of its unbroken ones */
bool fencing, read_it = true;
#ifdef CRASH_LOOP
bool down;
byte lived;
#define AWAKE (!down)
#else
#define AWAKE true
#endif

#ifdef M_NO_WATCHDOG
#define WORKS true
#else
#define WORKS (stuck_for < TTL)
#endif

#ifdef M_STALL_STICKS        /* its own beats must span a run whose start stays */
#define SILENT (run_age >= WAIT && chain_age >= run_age && own_age <= GAP)
#else                        /* a gap between its own beats restarts the run */
#define SILENT (run_age >= WAIT && chain_age >= WAIT && own_age <= GAP)
#endif

#ifdef M_UNSEEN_IS_DEAD
#define PROVEN (gone || !visible)
#else
#define PROVEN (gone && visible)
#endif

/* Not yet done in this tick. */
#define E_DUE (!gone && !beaten && !stall && WORKS)
#ifdef CRASH_LOOP
#define O_DUE ((down && !stall && own_age > 0) \
               || (!down && (!read_it || (own_age > 0 && !stall) || lived >= LIFE)))
#else
#define O_DUE (!read_it || (own_age > 0 && !stall))
#endif
#ifdef PROOF
#define SEEN_DEAD (SILENT || PROVEN)
#else
#define SEEN_DEAD SILENT
#endif
#define FENCE_DUE ((fencing && !stall) \
                   || (AWAKE && !fencing && has && current && SEEN_DEAD))

inline forget_run() { has = false; current = false; run_age = 0; asked_age = 0 }

inline own_beat() {
    if :: own_age > GAP -> chain_age = 0 :: else fi;
    own_age = 0
}

proctype Engine() {
    do
    :: d_step {
        !fenced && !gone && !beaten && !stall && WORKS ->
        beaten = true;
        current = false;
        say("E's beat is committed\n")
    }
#ifdef WATCHDOG
    :: d_step { !fenced && !stuck -> stuck = true; say("E's loop gets stuck\n") }
#else
    :: d_step { !fenced && !gone -> gone = true; say("E dies\n") }
#endif
    od
}

proctype Observe() {
    do
    :: d_step {
        !fenced && AWAKE && !read_it ->
        if
        :: has && current -> say("observer reads the same beat again\n")
        :: else ->
            has = true; current = true; run_age = 0;
            say("observer reads another beat: a run begins\n")
        fi;
        asked_age = 0;
        read_it = true
    }
    :: d_step {
        !fenced && AWAKE && !stall && own_age > 0 ->
        own_beat();
        say("observer's own beat is committed\n")
    }
    :: d_step {
        !fenced && AWAKE && !fencing && has && current && SILENT ->
        fencing = true;
        say("observer: silent for a whole lease; it sends the fence\n")
    }
#ifdef PROOF
    :: d_step {
        !fenced && AWAKE && !fencing && has && current && read_it && PROVEN ->
        fencing = true;
        say("observer: the process is gone; it sends the fence\n")
    }
#endif
    :: d_step {
        !fenced && fencing && !stall ->
        fencing = false;
        fenced = true;
        say("server: E is fenced\n");
        witness(FENCED_AT_THE_BOUND, waiting == BOUND);
#ifdef PROOF
        witness(FENCED_BY_PROOF, waiting == 0);
#endif
#ifdef CRASH_LOOP
        witness(FENCED_BY_A_SUCCESSOR, run_age > LIFE);
#endif
        assert(current && (gone || stuck))
    }
#ifdef CRASH_LOOP
    :: d_step {
        !fenced && !down && lived >= 1 && read_it && !FENCE_DUE ->
        down = true;
        lived = 0;
        fencing = false;
#ifdef M_NOTHING_KEPT
        forget_run();
        chain_age = 0;
        own_age = GAP + 1;
#endif
        say("observer dies\n")
    }
    :: d_step {
        !fenced && down && !stall ->
        down = false;
        own_beat();
        say("observer's successor registers\n")
    }
#endif
    od
}

proctype Nemesis() {
    do
    :: d_step {
        !fenced && !stall && stalls == 0 ->
        stall = true;
        stalls = STALLS;
        say("writes hang\n")
    }
    :: d_step { !fenced && stall -> stall = false; waiting = 0; say("writes work again\n") }
    od
}

proctype Clock() {
    do
    :: fenced -> skip      /* so that any other standstill is an error */
    :: d_step {
        !fenced && !E_DUE && !O_DUE && !FENCE_DUE && !(stall && stalls == 1) ->
        if
        :: stall -> stalls--; waiting = 0
        :: !stall && (gone || stuck) -> older(waiting, BOUND + 1)
        :: else
        fi;
        if :: stuck -> older(stuck_for, TTL) :: else fi;
        older(own_age, GAP + 1);
        if
        :: own_age > GAP -> chain_age = 0
        :: else -> older(chain_age, MOST)
        fi;
        if
        :: has && asked_age >= GAP -> forget_run()
        :: has && asked_age < GAP -> asked_age++; older(run_age, MOST)
        :: else
        fi;
        beaten = false; read_it = false;
#ifdef CRASH_LOOP
        if :: !down -> lived++ :: else fi;
#endif
        say("tick\n");
        assert(waiting <= BOUND);
#ifdef PROOF
        assert(!(visible && waiting > 1))
#endif
    }
    od
}

init {
    if
    :: visible = false
#ifdef PROOF
    :: visible = true
#endif
    fi;
    atomic { run Engine(); run Observe(); run Nemesis(); run Clock() }
}
