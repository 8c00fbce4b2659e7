/*
 * The rows: engines A and B arm, claim, run, settle, drain, die, and are taken over; a
 * survivor C, without faults, sees to what is left when the faults are over. What
 * claims.py, deadlines.py, runner.py, settle.py, sweep.py and Running.drain do.
 *
 * A token is random, so all that matters is who presents the one that is in the row now:
 * "cur" is true for a value whose token that is. Every write of a row makes all values
 * of it stale (touch), but the writer's own new one. So tokens need no numbers, and the
 * states are finite without any bound on the length of a run.
 *
 * The lease is here what lease.pml has shown it to be: an engine is fenced only while it
 * does not trust itself. How late a deadline is, is three steps: not due, due, and due
 * for longer than its owner's head start.
 *
 * One statement is on its way from each engine's loop; its answer may be lost, and with
 * LATE it may be executed long after its engine gave it up. When all is calm, everything
 * that was armed must come to its end: invariant 1 is checked where nothing moves.
 *
 * Switches: ROWS, LATE, DRAIN, HOST, HANGS, RETRIES; FAILOVER (one that loses commits),
 * VM_PAUSE (an engine may be fenced while it trusts itself, because all its clocks stood
 * still), ENDS (when all is calm, everything comes to an end). Mutants begin with M_.
 */

#include "common.pml"

#ifndef ROWS
#define ROWS 1
#endif
#define A 0
#define B 1
#define C 2
#define NOBODY 3
#define LETTER(i) (65 + (i))

/* A row's state. */
#define NONE    0            /* not armed yet */
#define ARMED   1
#define CLAIMED 2
#define PARKED  3
#define GONE    4            /* completed or disarmed */

/* An engine's row. */
#define LIVE    0
#define FENCED  1
#define STOPPED 2
#define MISSING 3            /* purged */

/* A statement of a loop. */
#define CLAIM_OWN     1
#define CLAIM_OVERDUE 2
#define CLAIM_ORPHAN  3
#define ADOPT_ORPHAN  4
#define ADOPT_LOST    5
#define DONE          6
#define RETRY         7
#define RELEASE       8
#define PARK          9
#define HAND_BACK     10

/* Where it is; and what a hold is. */
#define IDLE     0
#define SENT     1           /* on its way to the server */
#define ONE      2           /* it changed the row; the answer is on its way */
#define WAITS    1           /* held, the handler not called yet */
#define RUNS     2           /* the handler runs */
#define ANSWERED 3           /* spent; the outcome is to be written */

typedef Row { byte state; byte owner = NOBODY; byte due };
Row row[ROWS];
bool open[ROWS];             /* A's host has armed it in a transaction not yet committed */
bool value[ROWS];            /* A's host has the value that arm or extend gave out ... */
bool value_cur[ROWS];        /* ... and it is the newest */
#ifdef HOST
bool works[ROWS];            /* A's host works under it, and its guard lets it */
#endif

typedef Engine {
    bool up = true;
    byte state;              /* of its row */
    bool trust = true;
    byte drain;              /* 1 draining, 2 trust dropped, 3 spent, 4 handed back */
    byte op; byte at; byte does; bool cur;             /* its statement */
#ifdef LATE
    byte late_op; byte late_at; bool late_cur;         /* one that it gave up */
#endif
};
Engine e[2];
typedef Hold { byte does; bool cur; byte outcome };
Hold h[2 * ROWS];
#define HOLD(i, r) h[(i) * ROWS + (r)]
#define HOLD_ON_STANDBY(i, r) held_on_standby[(i) * ROWS + (r)]
bool c_runs[ROWS], c_cur[ROWS];
#ifdef FAILOVER              /* an asynchronous standby has some prefix */
Row standby[ROWS];
byte standby_engine[2];
bool ended_before[2];        /* a pass has read that, before a failover undid it */
bool held_on_standby[2 * ROWS];  /* the token of a value is the standby's */
bool value_on_standby[ROWS];
#endif
bool calm;                   /* no more faults: what is left now must be finished */
#ifdef ENDS
bool ended;                  /* and is */
#endif

#define BY_TRUST(i) (i == C || (i < C && e[i].trust))
#define IN_DB(i) (i == C -> LIVE : e[i].state)

/* Whose rows a pass takes for orphans. A missing engine counts when it has been missing
 * for a whole lease: by then it does not trust itself. */
#if defined(M_MISSING_IS_ALIVE)
#define ENDED(i) (e[i].state == FENCED || e[i].state == STOPPED)
#elif defined(M_MISSING_AT_ONCE)
#define ENDED(i) (e[i].state != LIVE)
#else
#define ENDED(i) (e[i].state == FENCED || e[i].state == STOPPED \
                  || (e[i].state == MISSING && !e[i].trust))
#endif
#ifdef FAILOVER              /* ... or that ended before the failover, as far as it knows */
#define DEAD(i) (i < C && (ENDED((i) % 2) || ended_before[(i) % 2]))
#else
#define DEAD(i) (i < C && ENDED((i) % 2))
#endif
#define UNSETTLED(r) (row[r].state == ARMED || row[r].state == CLAIMED)
#define ORPHAN(r) ((row[r].owner == NOBODY && row[r].state == ARMED) \
                   || (DEAD(row[r].owner) && UNSETTLED(r)))
#define ORPHAN_NOW(r) ((row[r].owner == NOBODY && row[r].state == ARMED) \
                       || (row[r].owner < C && ENDED(row[r].owner % 2) && UNSETTLED(r)))

/* --- the token changes --------------------------------------------------------- */
inline touch(ro) {
    if :: e[A].at == ro -> e[A].cur = false :: else fi;
    if :: e[B].at == ro -> e[B].cur = false :: else fi;
#ifdef LATE
    if :: e[A].late_at == ro -> e[A].late_cur = false :: else fi;
    if :: e[B].late_at == ro -> e[B].late_cur = false :: else fi;
#endif
    HOLD(A, ro).cur = false;
    HOLD(B, ro).cur = false;
    value_cur[ro] = false;
    c_cur[ro] = false;
}

/* --- what the statements' WHERE say ------------------------------------------------ */
#ifdef M_CLAIM_WITHOUT_DUE
#define DUE(r, least) true
#else
#define DUE(r, least) (row[r].due >= least)
#endif
#ifdef M_CLAIM_WITHOUT_TOKEN
#define SAME(cur) true
#else
#define SAME(cur) cur
#endif
#ifdef M_SETTLE_WITHOUT_TOKEN
#define HELD_SAME(cur) true
#else
#define HELD_SAME(cur) cur
#endif
#ifdef M_SETTLE_WITHOUT_OWNER
#define HELD_OWN(r, i) true
#else
#define HELD_OWN(r, i) (row[r].owner == i)
#endif
#ifdef M_NO_SECOND_LOOK
#define STILL_ORPHAN(r) true
#else
#define STILL_ORPHAN(r) (row[r].owner == NOBODY || IN_DB(row[r].owner) != LIVE)
#endif

#define COUNTS(op, r, i, cur) ( \
    op == CLAIM_OWN     -> (SAME(cur) && row[r].owner == i && row[r].state == ARMED \
                            && DUE(r, 1)) : ( \
    op == CLAIM_OVERDUE -> (SAME(cur) && OVERDUE_STATE(r) && DUE(r, 2)) : ( \
    op == CLAIM_ORPHAN  -> (SAME(cur) && STILL_ORPHAN(r) && row[r].state != GONE) : ( \
    op == ADOPT_ORPHAN  -> (SAME(cur) && STILL_ORPHAN(r) && row[r].state == ARMED) : ( \
    op == ADOPT_LOST    -> (SAME(cur) && row[r].owner == i \
                            && row[r].state == CLAIMED) : \
                           (HELD_SAME(cur) && HELD_OWN(r, i) \
                            && row[r].state != GONE))))))

#ifdef M_CLAIMED_DUE_AT_A_TIMEOUT
#define OVERDUE_STATE(r) (row[r].state == ARMED || row[r].state == CLAIMED)
#else
#define OVERDUE_STATE(r) (row[r].state == ARMED)
#endif
#ifdef M_CLAIM_LEAVES_IT_DUE
#define ONCE_CLAIMED ARMED
#else
#define ONCE_CLAIMED CLAIMED
#endif

/* What holds whenever a statement changes a row. */
#define RUNS_TRUSTED(i, r) (e[i].trust && HOLD(i, r).does == RUNS)
#define HELD_TRUSTED(i, r) (e[i].trust && \
    (HOLD(i, r).does == RUNS || HOLD(i, r).does == WAITS))

/* Invariant 3: no two run it at once, as long as each trusts itself. When a failover
 * has lost a claim that was acknowledged, or a machine stood still with its clocks, two
 * may; but only one of them can settle. */
#if defined(FAILOVER) || defined(VM_PAUSE)
#define ONE_RUNS(others) true
#else
#define ONE_RUNS(others) (!(others))
#endif

/* Invariant 5: nobody's row is taken from an engine that trusts itself. */
#ifdef VM_PAUSE
#define FENCEABLE(i) true
#define TAKEN_FROM_THE_DEAD(r) true
#else
#define FENCEABLE(i) (!e[i].trust)
#define TAKEN_FROM_THE_DEAD(r) (row[r].owner == NOBODY || !BY_TRUST(row[r].owner))
#endif

inline check(stmt, ro, by) {
    if
    :: stmt <= CLAIM_ORPHAN ->                           /* invariant 2 */
        assert(row[ro].due >= 1 || row[ro].owner == NOBODY ||
               IN_DB(row[ro].owner) != LIVE);
        assert(row[ro].state != PARKED)
    :: else
    fi;
    if
    :: stmt == CLAIM_ORPHAN || stmt == ADOPT_ORPHAN -> assert(TAKEN_FROM_THE_DEAD(ro))
    :: stmt == RELEASE || stmt == HAND_BACK ->             /* spent before it is sent */
        assert(!HELD_TRUSTED(by, ro))
    :: stmt == DONE || stmt == PARK ->                     /* invariants 3 and 6 */
        assert(!(HOLD(1 - by, ro).does != IDLE && HOLD(1 - by, ro).cur));
        assert(!((HOLD(by, ro).does == WAITS || HOLD(by, ro).does == RUNS) &&
                 HOLD(by, ro).cur));
        assert(!c_runs[ro])
    :: else
    fi
}

inline change(stmt, ro, by) {
    check(stmt, ro, by);
    witness(TAKEOVER, stmt == CLAIM_ORPHAN && row[ro].state == CLAIMED);
    witness(ADOPTION, stmt == ADOPT_ORPHAN);
    witness(OVERDUE_CLAIM, stmt == CLAIM_OVERDUE);
    witness(LOST_CLAIM_HELD, stmt == ADOPT_LOST);
    witness(HANDED_BACK, stmt == HAND_BACK);
    witness(PARKS, stmt == PARK);
    if
    :: stmt <= CLAIM_ORPHAN ->
        row[ro].state = ONCE_CLAIMED; row[ro].owner = by; touch(ro);
        if :: row[ro].due > 1 -> row[ro].due = 1 :: else fi  /* counted anew */
    :: stmt == ADOPT_ORPHAN -> row[ro].owner = by; touch(ro)
    :: stmt == ADOPT_LOST   -> touch(ro)
    :: stmt == DONE         -> row[ro].state = GONE; row[ro].owner = NOBODY; touch(ro)
    :: stmt == PARK         -> row[ro].state = PARKED; row[ro].owner = NOBODY; touch(ro)
    :: stmt == RETRY        -> row[ro].state = ARMED; row[ro].due = 0; touch(ro)
    :: stmt == RELEASE      -> row[ro].state = ARMED; row[ro].owner = NOBODY; touch(ro)
    :: stmt == HAND_BACK    -> row[ro].state = ARMED; row[ro].owner = NOBODY; touch(ro)
    fi;
    if
    :: row[ro].state == GONE || row[ro].state == PARKED -> row[ro].due = 0
    :: else
    fi
}
#ifdef M_PURGES_AN_OWNER
#define PURGEABLE(i) true
#else
#define PURGEABLE(i) OWNS_NOTHING(i)
#endif
#ifdef M_RESIGNS_FIRST
#define RESIGNS(i) (e[i].drain >= 1)
#else
#define RESIGNS(i) (e[i].drain == 3)
#endif

/* --- an engine's loop, for each row ---------------------------------------------------- */
#define FREE (e[i].up && e[i].does == IDLE)
/* Trust is looked at when a pass begins; by the time that it claims, the engine may be
 * suspended, fenced, or draining: only when all is calm is that no matter of time. */
#define IN_A_PASS (FREE && (calm -> (e[i].drain == 0 && e[i].trust) : e[i].drain <= 3))
#define SWEEPS (IN_A_PASS && UNKNOWN)
#ifdef M_LET_GO_BEFORE_WRITTEN
#define UNKNOWN (HOLD(i, r).does != RUNS && HOLD(i, r).does != WAITS)
#else
#define UNKNOWN (HOLD(i, r).does == IDLE)
#endif
#ifdef M_ADOPTS_WHAT_IT_HOLDS
#define LOOKS_FOR_LOST IN_A_PASS
#else
#define LOOKS_FOR_LOST SWEEPS
#endif

inline send(what, index) {
    e[i].op = what; e[i].at = index; e[i].does = SENT; e[i].cur = true
}

#define HANDLES (e[i].up && HOLD(i, r).does == RUNS)
inline answer(what) { HOLD(i, r).does = ANSWERED; HOLD(i, r).outcome = what }

inline rest(by) { e[by].op = 0; e[by].at = 0; e[by].does = IDLE; e[by].cur = false }
inline drop(by, ro) {
    HOLD(by, ro).does = IDLE; HOLD(by, ro).cur = false; HOLD(by, ro).outcome = 0
}

proctype Loop(byte i; byte r) {
end:
    do
    :: d_step {
        SWEEPS && row[r].owner == i && row[r].state == ARMED &&
        (row[r].due > 0 || !calm) ->
        send(CLAIM_OWN, r);
        tell("engine %c claims an own deadline\n", LETTER(i))
    }
    :: d_step {
        SWEEPS && row[r].owner != i && row[r].owner != NOBODY &&
        OVERDUE_STATE(r) && row[r].due == 2 ->
        send(CLAIM_OVERDUE, r);
        tell("engine %c claims an overdue deadline of another\n", LETTER(i))
    }
    :: d_step {
        SWEEPS && ORPHAN(r) && (row[r].due > 0 || r > 0 || row[r].state == CLAIMED) ->
        send(CLAIM_ORPHAN, r);
        tell("engine %c claims an orphan\n", LETTER(i))
    }
    :: d_step {
        SWEEPS && ORPHAN(r) && row[r].due == 0 && r == 0 && row[r].state == ARMED ->
        send(ADOPT_ORPHAN, r);
        tell("engine %c adopts an orphan\n", LETTER(i))
    }
#ifndef M_NO_ADOPTION
    :: d_step {
        LOOKS_FOR_LOST && row[r].owner == i && row[r].state == CLAIMED ->
        send(ADOPT_LOST, r);
        tell("engine %c finds a claim of its own that it does not know\n", LETTER(i))
    }
#endif
    :: d_step {
        FREE && HOLD(i, r).does == ANSWERED && e[i].drain <= 2 ->
        send(HOLD(i, r).outcome, r);
        e[i].cur = HOLD(i, r).cur;
        tell("engine %c sends an outcome\n", LETTER(i))
    }
    /* The answer. */
    :: d_step {
        e[i].up && e[i].does == ONE && e[i].at == r ->
        if
        :: e[i].op >= DONE -> drop(i, r); tell("engine %c: the outcome is written\n", LETTER(i))
        :: else ->
            assert(HOLD(i, r).does != RUNS);           /* no second run here, */
            assert(HOLD(i, r).does != ANSWERED);       /* nor one after the answer */
            HOLD(i, r).does = WAITS;
            HOLD(i, r).cur = e[i].cur;
#if defined(HOST) && !defined(M_GUARD_NOT_TOLD)
            if :: i == A -> works[r] = false :: else fi;
#endif
            tell("engine %c: claimed, and held\n", LETTER(i))
        fi;
        rest(i)
    }
    :: d_step {
        e[i].does >= SENT && e[i].at == r && (!calm || !e[i].up) ->
        rest(i);
        tell("engine %c: no answer comes\n", LETTER(i))
    }
#ifdef LATE
    :: d_step {
        e[i].does == SENT && e[i].at == r && e[i].late_op == 0 && !calm ->
        e[i].late_op = e[i].op; e[i].late_at = r; e[i].late_cur = e[i].cur;
        rest(i);
        tell("engine %c gives up a statement that is still on its way\n", LETTER(i))
    }
#endif
    /* The handler. */
    :: d_step {
        e[i].up && e[i].trust && HOLD(i, r).does == WAITS ->
        HOLD(i, r).does = RUNS;
        tell("engine %c calls the handler\n", LETTER(i));
        witness(TWO_RUN, RUNS_TRUSTED(1 - i, r));
#ifdef HOST
        assert(i != A || !works[r]);
#endif
        assert(ONE_RUNS(RUNS_TRUSTED(1 - i, r) || c_runs[r]))
    }
    :: d_step { HANDLES -> answer(DONE); tell("%c's handler is done\n", LETTER(i)) }
#ifdef RETRIES
    :: d_step { HANDLES && !calm -> answer(RETRY); tell("%c's handler wants a retry\n", LETTER(i)) }
    :: d_step { HANDLES && !calm -> answer(RELEASE); tell("%c's handler releases\n", LETTER(i)) }
    :: d_step { HANDLES && !calm -> answer(PARK); tell("%c's handler parks\n", LETTER(i)) }
#endif
#ifdef HANGS
    :: d_step {
        HANDLES && !calm ->
        answer(RETRY);
        tell("%c's handler runs too long: its value is taken away, to be retried\n", LETTER(i))
    }
    :: d_step {
        HANDLES && !calm ->
        answer(RELEASE);
        tell("engine %c: all threads hang; its value is taken away, to be released\n", LETTER(i))
    }
    :: d_step {
        FREE && HOLD(i, r).does == WAITS && !calm ->
#ifdef M_RELEASE_THEN_SPEND
        send(RELEASE, r);
        e[i].cur = HOLD(i, r).cur;
#else
        answer(RELEASE);
#endif
        tell("engine %c: all threads hang; what waits is given back\n", LETTER(i))
    }
#endif
    od
}

/* --- the server ---------------------------------------------------------------------------- */
proctype Server(byte i) {
end:
    do
    :: d_step {
        e[i].does == SENT ->
        if
        :: COUNTS(e[i].op, e[i].at, i, e[i].cur) ->
            say("server: it changes the row\n");
            change(e[i].op, e[i].at, i);
            if
            :: e[i].op == ADOPT_ORPHAN -> rest(i)      /* the row says it all */
            :: else -> e[i].does = ONE; e[i].cur = true
            fi
        :: else ->
            say("server: it changes nothing, and the engine learns it\n");
            witness(STALE_SETTLEMENT, e[i].op >= DONE && row[e[i].at].owner == 1 - i);
            if :: e[i].op >= DONE && e[i].up -> drop(i, e[i].at) :: else fi;
            rest(i)
        fi
    }
#ifdef LATE
    :: d_step {
        e[i].late_op != 0 ->
        if
        :: COUNTS(e[i].late_op, e[i].late_at, i, e[i].late_cur) ->
            witness(LATE_COUNTS, true);
            say("server: the late statement changes the row\n");
            change(e[i].late_op, e[i].late_at, i)
        :: else -> say("server: the late statement changes nothing\n")
        fi;
        e[i].late_op = 0; e[i].late_at = 0; e[i].late_cur = false
    }
    :: d_step {
        e[i].late_op != 0 ->
        e[i].late_op = 0; e[i].late_at = 0; e[i].late_cur = false;
        say("the late statement is lost\n")
    }
#endif
    od
}

/* --- the lives of A and B ---------------------------------------------------------------------- */
inline clear(i) {
    for (x : 0 .. ROWS - 1) { drop(i, x) }
    x = 0;
    if :: e[i].does >= ONE -> rest(i) :: else fi;
    if
    :: i == A ->
        for (x : 0 .. ROWS - 1) {
            value[x] = false; value_cur[x] = false;
#ifdef HOST
            works[x] = false
#endif
        }
    :: else
    fi;
    x = 0
}
byte x;

#define OWNS_NOTHING(i) (row[0].owner != i && row[ROWS - 1].owner != i)

proctype Life(byte i) {
end:
    do
    :: d_step {
        e[i].up && e[i].trust && !calm ->
        e[i].trust = false;
        tell("engine %c is suspended: its lease lapsed\n", LETTER(i))
    }
    :: d_step {
        e[i].up && !e[i].trust && e[i].state == LIVE && e[i].drain <= 1 ->
        e[i].trust = true;
        witness(SUSPENSION_ENDS, true);
        tell("engine %c beats again and trusts itself\n", LETTER(i))
    }
    :: d_step {
        e[i].up && !calm ->
        e[i].up = false; e[i].trust = false; e[i].drain = 0;
        clear(i);
        tell("engine %c dies\n", LETTER(i))
    }
    :: d_step {
        e[i].up && e[i].state != LIVE && e[i].drain == 0 ->
        e[i].up = false; e[i].trust = false;
        clear(i);
        tell("engine %c learns that it was fenced\n", LETTER(i))
    }
    :: d_step {
        e[i].state == LIVE && FENCEABLE(i) && (!calm || !e[i].up || e[i].drain > 1) ->
        e[i].state = FENCED;
        tell("engine %c is fenced\n", LETTER(i))
    }
    :: d_step {
        (e[i].state == FENCED || e[i].state == STOPPED) && PURGEABLE(i) ->
        e[i].state = MISSING;
        witness(PURGED, true);
        tell("engine %c's row is purged\n", LETTER(i))
    }
#ifdef DRAIN
    :: d_step {
        e[i].up && e[i].drain == 0 && !calm ->
        e[i].drain = 1;
        tell("engine %c drains: no more claims\n", LETTER(i))
    }
    :: d_step {
        e[i].up && e[i].drain == 1 ->
        e[i].drain = 2;
#ifndef M_DRAINED_TRUSTED
        e[i].trust = false;
#endif
        tell("engine %c drops its trust\n", LETTER(i))
    }
    :: d_step {
        e[i].up && e[i].drain == 2 ->
        e[i].drain = 3;
#ifndef M_DRAINED_NOT_SPENT
        for (x : 0 .. ROWS - 1) { drop(i, x) }
        x = 0;
#endif
        tell("engine %c spends every value that it holds\n", LETTER(i))
    }
    :: d_step {
        e[i].up && e[i].drain == 3 && row[0].owner == i ->
        change(HAND_BACK, 0, i);
        tell("engine %c hands a deadline back\n", LETTER(i))
    }
#if ROWS > 1
    :: d_step {
        e[i].up && e[i].drain == 3 && row[1].owner == i ->
        change(HAND_BACK, 1, i);
        tell("engine %c hands the other deadline back\n", LETTER(i))
    }
#endif
    :: d_step {
        e[i].up && RESIGNS(i) ->
        if
        :: e[i].state == LIVE ->
            e[i].state = STOPPED;
            assert(!HELD_TRUSTED(i, 0) && !HELD_TRUSTED(i, ROWS - 1))
        :: else
        fi;
        e[i].up = false; e[i].trust = false; e[i].drain = 0;
        clear(i);
        tell("engine %c resigns\n", LETTER(i))
    }
#endif
    od
}

#ifdef M_EXTEND_KEEPS_TOKEN
#define EXTEND_TOUCH(r) skip
#else
#define EXTEND_TOUCH(r) touch(r)
#endif

/* --- a failover that loses commits ----------------------------------------------------- */
#ifdef FAILOVER
proctype Failover() {
end:
    do
    :: d_step {
        !calm ->
        for (x : 0 .. ROWS - 1) {
            standby[x].state = row[x].state; standby[x].owner = row[x].owner;
            standby[x].due = row[x].due;
            HOLD_ON_STANDBY(A, x) = HOLD(A, x).cur;
            HOLD_ON_STANDBY(B, x) = HOLD(B, x).cur;
            value_on_standby[x] = value_cur[x]
        }
        x = 0;
        standby_engine[A] = e[A].state; standby_engine[B] = e[B].state;
        say("the standby catches up\n")
    }
    :: d_step {
        !calm ->
        witness(COMMIT_IS_UNDONE, row[0].state == GONE && standby[0].state == CLAIMED);
        for (x : 0 .. ROWS - 1) {
            row[x].state = standby[x].state; row[x].owner = standby[x].owner;
            row[x].due = standby[x].due;
            open[x] = false;
            HOLD(A, x).cur = HOLD_ON_STANDBY(A, x);
            HOLD(B, x).cur = HOLD_ON_STANDBY(B, x);
            value_cur[x] = value_on_standby[x]
        }
        x = 0;
        ended_before[A] = ended_before[A] || ENDED(A);
        ended_before[B] = ended_before[B] || ENDED(B);
        e[A].state = standby_engine[A]; e[B].state = standby_engine[B];
        rest(A); rest(B);
        say("failover: the standby takes over without the latest commits\n")
    }
    :: d_step {
        ended_before[A] || ended_before[B] ->
        ended_before[A] = false; ended_before[B] = false;
        say("housekeeping reads anew who has ended\n")
    }
    od
}
#endif

/* --- A's host, time, and the end ------------------------------------------------------------------ */
#define CAN_EXTEND(r) (e[A].up && e[A].trust && !calm && value[r] && value_cur[r] && \
                       row[r].owner == A && row[r].state == ARMED)

proctype Host(byte r) {
    /* An arm, alone or in a transaction of the host's, which commits when it likes: it
     * may be on its way when A is dead, taken over, and purged. */
    if
    :: d_step { !calm && e[A].up && e[A].trust -> open[r] = true; say("A's host arms\n") }
    :: calm || !e[A].up -> goto end_done
    fi;
    if
    :: d_step {
        open[r] ->
        open[r] = false;
        row[r].state = ARMED; row[r].owner = A;
        value[r] = e[A].up; value_cur[r] = e[A].up;
#ifdef HOST
        works[r] = e[A].up;
#endif
        witness(ARMED_BY_THE_DEAD, e[A].state != LIVE);
        say("server: the arm is committed\n")
    }
    :: d_step { open[r] -> open[r] = false; say("the host rolls back\n") };
        goto end_done
    :: !open[r] -> goto end_done                           /* its server is gone */
    fi;
#ifdef HOST
end:
    do
    :: d_step {
        CAN_EXTEND(r) ->
        EXTEND_TOUCH(r);
        row[r].due = 0;
        value_cur[r] = true;
        say("A's host extends\n")
    }
    :: d_step {
        CAN_EXTEND(r) ->
        EXTEND_TOUCH(r);
        row[r].due = 0;
        say("A's host extends, and gets no answer\n")
    }
    :: d_step {
        e[A].up && value[r] && !calm ->
        if
        :: HELD_SAME(value_cur[r]) && row[r].owner == A && row[r].state != GONE ->
            say("A's host disarms\n");
            change(DONE, r, A)
        :: else -> say("A's host disarms: stale\n")
        fi;
        value[r] = false; value_cur[r] = false;
        works[r] = false
    }
    :: !value[r] || calm || !e[A].up -> break
    od;
#endif
end_done:
    false
}

#ifdef M_ARM_OVERWRITES      /* the other host's arm of a key that lives is refused */
proctype OtherHost(byte r) {
end:
    do
    :: d_step {
        !calm && e[B].up && e[B].trust && UNSETTLED(r) ->
        row[r].state = ARMED; row[r].owner = B; row[r].due = 0;
        touch(r);
        say("B's host arms the same key\n")
    }
    od
}
#endif

proctype Time(byte r) {
end:
    do
    :: d_step {
        row[r].state == ARMED && row[r].due < 2 -> row[r].due++; say("time passes\n")
    }
    od
}

proctype Survivor(byte r) {
end:
    do
    :: d_step {
        calm && !c_runs[r] &&
        ((row[r].state == ARMED && row[r].due == 2) || ORPHAN_NOW(r)) ->
        say("C claims and calls the handler\n");
        if
        :: ORPHAN_NOW(r) -> assert(TAKEN_FROM_THE_DEAD(r))
        :: else
        fi;
        row[r].state = CLAIMED; row[r].owner = C; touch(r);
        c_runs[r] = true; c_cur[r] = true;
        assert(ONE_RUNS(RUNS_TRUSTED(A, r) || RUNS_TRUSTED(B, r)))
    }
    :: d_step {
        c_runs[r] ->
        say("C's handler is done\n");
        c_runs[r] = false;
        assert(c_cur[r]);
        row[r].state = GONE; row[r].owner = NOBODY; row[r].due = 0; touch(r)
    }
    od
}

#define SETTLED(r) (row[r].state == NONE || row[r].state == PARKED || row[r].state == GONE)

proctype Calm() {
    d_step { calm = true; say("from here on nothing goes wrong\n") };
    timeout;
    assert(SETTLED(0) && SETTLED(ROWS - 1));             /* invariant 1 */
#ifdef ENDS
    ended = true;
#endif
end:
    false
}

init {
    atomic {
        run Loop(A, 0); run Loop(B, 0);
#if ROWS > 1
        run Loop(A, 1); run Loop(B, 1);
#endif
        run Server(A); run Server(B);
        run Life(A); run Life(B);
        run Host(0); run Time(0); run Survivor(0);
#if ROWS > 1
        run Host(1); run Time(1); run Survivor(1);
#endif
#ifdef M_ARM_OVERWRITES
        run OtherHost(0);
#endif
#ifdef FAILOVER
        run Failover();
        standby_engine[A] = MISSING;       /* it has not yet heard of A */
#endif
        run Calm()
    }
}

#ifdef ENDS                  /* when all is calm, nothing goes on for ever */
never {
before:
    if
    :: !calm -> goto before
    :: calm -> goto accept
    fi;
accept:
    do
    :: calm && !ended
    od
}
#endif
