/*
 * Attempts and parking: invariant 7. What claims.py counts, admission.py admits,
 * loop.py fires, and what is parked then.
 *
 * Some rows are poison: their handlers kill their engine whenever they run. The others
 * are innocent. Engines run many at once, die with the poison, die of other causes, or
 * are fenced alive; answers to claims are lost. A poisonous row may kill MOST engines,
 * no more, and is parked then. An innocent one is parked only if its engine ended for
 * another reason just while it had its last attempt ("excused"): nobody can tell that
 * from a handler that kills.
 *
 * Whose the row is, who is dead and what a token guards is in rows.pml. Here an engine's
 * end frees its rows at once, every row is due at any time, and an outcome is written in
 * one step: none of that touches the count.
 *
 * Switches: ROWS, POISONS, MOST (max_attempts), LATE (a claim that its engine gave up may
 * be executed afterwards, and then the promise does not hold: see the documentation).
 */
#include "common.pml"

#ifndef MOST
#define MOST 2
#endif
#ifndef ROWS
#define ROWS 2
#endif
#ifndef POISONS
#define POISONS 1
#endif
#define POISON(r) ((r) < POISONS)
mtype = { poison, innocent };
#define WHAT(r) (POISON(r) -> poison : innocent)

#define ARMED   0
#define CLAIMED 1
#define PARKED  2
#define GONE    3

#define A      0
#define B      1
#define NOBODY 2
#define LETTER(i) (65 + (i))

/* A statement of an engine. */
#define IDLE     0
#define CHOOSING 1           /* found, and being admitted */
#define SENT     2
#define ONE      3           /* it has changed rows; the answer is on its way */

/* A hold. */
#define WAITS    1
#define RUNS     2
#define ANSWERED 3

typedef Row {
    byte state;
    byte owner = NOBODY;     /* of a claimed row; NOBODY when its engine has ended */
    byte attempts;
    bool excused;
    byte kills;
};
Row row[ROWS];

typedef Engine {
    bool up = true;
    bool failing;            /* an answer was lost, and no pass has looked since */
    byte does;
    bool lost;               /* it is to hold lost claims, not to claim */
};
Engine e[2];
typedef Pair {
    bool at;                 /* the engine's statement is about the row ... */
    bool cur;                /* ... and nobody has changed that since it was found */
    byte hold;
    byte n;                  /* attempts, as held */
    bool hold_cur;
#ifdef LATE
    bool late_at;            /* one that it gave up ... */
    bool late_cur;
#endif
};
Pair p[2 * ROWS];
#define P(i, r) p[(i) * ROWS + (r)]
#ifdef LATE
bool late[2];                /* ... is on its way yet */
bool late_dead[2];           /* and its engine has ended */
#endif
bool calm;
byte x;

/* --- admission --------------------------------------------------------------------- */
#if ROWS == 3
#define ANY(what) (what(0) || what(1) || what(2))
#else
#define ANY(what) (what(0) || what(1))
#endif
#define COUNTED (e[i].lost -> 1 : 0)
#define LAST_FOUND(r) (row[r].attempts - COUNTED + 1 >= MOST)
#define SUSPECT_FOUND(r) (row[r].attempts > COUNTED)

#define IS_HELD(r)      (P(i, r).hold != 0)
#define IS_CHOSEN(r)    P(i, r).at
#define LAST_HELD(r)    (P(i, r).hold != 0 && P(i, r).n >= MOST)
#define LAST_CHOSEN(r)  (P(i, r).at && LAST_FOUND(r))
#define SUSPECT_HELD(r) (P(i, r).hold != 0 && P(i, r).n > 1)
#define SUSPECT_CHOSEN(r) (P(i, r).at && SUSPECT_FOUND(r))

#ifdef M_LAST_IN_COMPANY
#define ADMITTED_LAST(r) true
#define OTHERS_STAY_OUT false
#else
#define ADMITTED_LAST(r) (!ANY(IS_HELD) && !ANY(IS_CHOSEN))
#ifdef M_COMPANY_COMES_LATER
#define OTHERS_STAY_OUT false
#else
#define OTHERS_STAY_OUT (ANY(LAST_HELD) || ANY(LAST_CHOSEN))
#endif
#endif
#ifdef M_SUSPECTS_TOGETHER
#define SUSPECTS_APART(r) true
#else
#define SUSPECTS_APART(r) \
    (!SUSPECT_FOUND(r) || (!ANY(SUSPECT_HELD) && !ANY(SUSPECT_CHOSEN)))
#endif
#define ADMITTED(r) (!IS_HELD(r) && !P(i, r).at && !OTHERS_STAY_OUT && \
                     (LAST_FOUND(r) -> ADMITTED_LAST(r) : SUSPECTS_APART(r)))

/* What a turn may claim when the one before has failed. */
#if defined(M_FIRES_ALL_FIRST)
#define MAY_FIRE(r) true
#elif defined(M_FIRES_FRESH_FIRST)
#define MAY_FIRE(r) (!e[i].failing || row[r].attempts == 0)
#else
#define MAY_FIRE(r) (!e[i].failing)
#endif

#define CLAIMABLE(r) (row[r].attempts < MOST && \
    (row[r].state == ARMED || (row[r].state == CLAIMED && row[r].owner == NOBODY)))
#define LOST(r) (row[r].state == CLAIMED && row[r].owner == i && !IS_HELD(r))

#ifdef M_COUNTED_AT_COMPLETION
#define AT_CLAIM 0
#else
#define AT_CLAIM 1
#endif
#ifdef M_LOST_COUNTED_TWICE
#define AT_HOLD_LOST 1
#else
#define AT_HOLD_LOST 0
#endif
#if defined(M_UNSTARTED_COUNTS) || defined(M_COUNTED_AT_COMPLETION)
#define BACK 0
#else
#define BACK 1
#endif
#ifdef M_PARKS_THE_LIVING
#define NOBODY_RUNS(r) true
#else
#define NOBODY_RUNS(r) (row[r].state == ARMED || row[r].owner == NOBODY)
#endif

/* --- rows change --------------------------------------------------------------------- */
inline touch(ro) {
    P(A, ro).cur = false; P(B, ro).cur = false;
    P(A, ro).hold_cur = false; P(B, ro).hold_cur = false;
#ifdef LATE
    P(A, ro).late_cur = false; P(B, ro).late_cur = false;
#endif
}

inline rest(by) {
    for (x : 0 .. ROWS - 1) { P(by, x).at = false; P(by, x).cur = false }
    x = 0;
    e[by].does = IDLE; e[by].lost = false
}

inline drop(by, ro) { P(by, ro).hold = 0; P(by, ro).n = 0; P(by, ro).hold_cur = false }

/* The engine ends, and others see it: its rows are free. */
inline finish(by) {
    rest(by);
    for (x : 0 .. ROWS - 1) {
        drop(by, x);
        if :: row[x].owner == by -> row[x].owner = NOBODY :: else fi
    }
    x = 0;
#ifdef LATE
    late_dead[by] = late[by];
#endif
    e[by].up = false; e[by].failing = false
}

#ifdef LATE
#define LAST_LATE(i, r) (P(i, r).late_cur && row[r].attempts + 1 >= MOST)
#else
#define LAST_LATE(i, r) false
#endif

inline excuse(by) {
    for (x : 0 .. ROWS - 1) {
        if
        :: (row[x].owner == by && row[x].attempts >= MOST) || LAST_LATE(by, x) ->
            row[x].excused = true
        :: else
        fi
    }
    x = 0
}

/* --- an engine ---------------------------------------------------------------------- */
proctype Loop(byte i; byte r) {
end:
    do
    :: d_step {
        e[i].up && (e[i].does == IDLE || (e[i].does == CHOOSING && !e[i].lost)) &&
        CLAIMABLE(r) && ADMITTED(r) && MAY_FIRE(r) ->
        P(i, r).at = true; P(i, r).cur = true;
        e[i].does = CHOOSING;
        tell("%c is to claim the %e\n", LETTER(i), WHAT(r))
    }
    :: d_step {
        e[i].up && e[i].does == IDLE && LOST(r) ->
        e[i].lost = true;                /* admission counts differently */
        if
        :: ADMITTED(r) ->
            P(i, r).at = true; P(i, r).cur = true;
            e[i].does = CHOOSING;
            witness(LOST_LAST_HELD, row[r].attempts >= MOST);
            tell("%c finds that it has claimed the %e unknowingly\n", LETTER(i), WHAT(r))
        :: else -> e[i].lost = false
        fi
    }
    :: d_step {
        e[i].up && e[i].does == CHOOSING && e[i].lost && LOST(r) && ADMITTED(r) ->
        P(i, r).at = true; P(i, r).cur = true;
        tell("%c finds that it has claimed the %e, too\n", LETTER(i), WHAT(r))
    }
    /* The handler. */
    :: d_step {
        e[i].up && P(i, r).hold == WAITS ->
        P(i, r).hold = RUNS;
        tell("%c calls the handler of the %e\n", LETTER(i), WHAT(r))
    }
    :: d_step {
        e[i].up && P(i, r).hold == RUNS && POISON(r) ->
        tell("the handler kills %c\n", LETTER(i));
        row[r].kills++;
        assert(row[r].kills <= MOST);
        witness(KILLED_WITH_IT, row[ROWS - 1].owner == i);
        finish(i)
    }
    :: d_step {
        e[i].up && P(i, r).hold == RUNS && !POISON(r) ->
        P(i, r).hold = ANSWERED;
        tell("%c: the handler is done\n", LETTER(i))
    }
    :: d_step {
        e[i].up && P(i, r).hold == ANSWERED ->
        if
        :: P(i, r).hold_cur ->
            witness(SUSPECT_FINISHES, row[r].attempts == MOST);
            row[r].state = GONE; row[r].owner = NOBODY; row[r].attempts = 0;
            row[r].excused = false;
            touch(r)
        :: else
        fi;
        drop(i, r);
        tell("%c: the outcome is written\n", LETTER(i))
    }
    :: d_step {
        e[i].up && P(i, r).hold == WAITS && !calm ->
        if
        :: P(i, r).hold_cur ->
            row[r].state = ARMED; row[r].owner = NOBODY;
            row[r].attempts = P(i, r).n - BACK;
            touch(r)
        :: else
        fi;
        drop(i, r);
        witness(WITHDRAWN, true);
        tell("%c gives the %e back, not started\n", LETTER(i), WHAT(r))
    }
    /* A pass finds it hopeless. */
    :: d_step {
        e[i].up && row[r].state <= CLAIMED && row[r].attempts >= MOST &&
        NOBODY_RUNS(r) ->
        row[r].state = PARKED; row[r].owner = NOBODY;
        touch(r);
        tell("%c parks the %e\n", LETTER(i), WHAT(r));
        witness(POISON_PARKED, POISON(r));
        witness(INNOCENT_PARKED, !POISON(r));
        assert(POISON(r) || row[r].excused)            /* invariant 7 */
    }
    od
}

#define EXECUTE(by, on, same, owned_by, count) \
    for (x : 0 .. ROWS - 1) { \
        if \
        :: P(by, x).on && P(by, x).same -> \
            row[x].state = CLAIMED; row[x].owner = owned_by; \
            row[x].attempts = row[x].attempts + count; \
            touch(x); \
            P(by, x).same = true \
        :: else -> P(by, x).on = false; P(by, x).same = false \
        fi \
    } \
    x = 0

proctype Life(byte i) {
end:
    do
    :: d_step { e[i].does == CHOOSING -> e[i].does = SENT; tell("%c sends it\n", LETTER(i)) }
    :: d_step {
        e[i].does == SENT ->
        EXECUTE(i, at, cur, i, (e[i].lost -> AT_HOLD_LOST : AT_CLAIM));
        e[i].does = ONE;
        say("server: what nobody has changed since is claimed\n")
    }
    :: d_step {
        e[i].does == ONE ->
        for (x : 0 .. ROWS - 1) {
            if
            :: P(i, x).at ->
                P(i, x).hold = WAITS; P(i, x).n = row[x].attempts;
                P(i, x).hold_cur = P(i, x).cur
            :: else
            fi
        }
        x = 0;
#ifdef M_GOES_ON_UNHELD
        if :: e[i].lost -> e[i].failing = false :: else fi;
#endif
        rest(i);
        tell("%c holds what it has claimed\n", LETTER(i))
    }
    :: d_step {
        e[i].does >= SENT && !calm ->
        rest(i);
        e[i].failing = true;
        tell("%c: no answer comes\n", LETTER(i))
    }
#ifdef LATE
    :: d_step {
        e[i].does == SENT && !late[i] && !calm ->
        for (x : 0 .. ROWS - 1) {
            P(i, x).late_at = P(i, x).at && !e[i].lost;
            P(i, x).late_cur = P(i, x).cur && !e[i].lost
        }
        x = 0;
        late[i] = true;
        rest(i);
        e[i].failing = true;
        tell("%c gives up a claim that is still on its way\n", LETTER(i))
    }
    :: d_step {
        late[i] ->
        EXECUTE(i, late_at, late_cur, (late_dead[i] -> NOBODY : i), AT_CLAIM);
        for (x : 0 .. ROWS - 1) { P(i, x).late_at = false; P(i, x).late_cur = false }
        x = 0;
        late[i] = false; late_dead[i] = false;
        say("server: the late claim is executed\n")
    }
#endif
    /* A pass that has found nothing of its own has looked, too. */
    :: d_step {
        e[i].up && e[i].failing && e[i].does == IDLE && !ANY(LOST) ->
        e[i].failing = false;
        tell("%c: nothing was claimed unknowingly\n", LETTER(i))
    }
    :: d_step {
        e[i].up && !calm ->
        excuse(i);
        finish(i);
        tell("%c dies of something else, or is fenced\n", LETTER(i))
    }
    :: d_step { !e[i].up -> e[i].up = true; tell("%c starts anew\n", LETTER(i)) }
    od
}

#define SETTLED(r) (POISON(r) -> row[r].state == PARKED : \
                    (row[r].state == GONE || (row[r].state == PARKED && row[r].excused)))
#define UNSETTLED(r) (!SETTLED(r))

proctype Calm() {
    d_step { calm = true; say("from here on engines die of their handlers alone\n") };
    timeout;
    assert(!ANY(UNSETTLED));
end:
    false
}

init {
    atomic {
        run Loop(A, 0); run Loop(A, 1); run Loop(B, 0); run Loop(B, 1);
#if ROWS == 3
        run Loop(A, 2); run Loop(B, 2);
#endif
        run Life(A); run Life(B);
        run Calm()
    }
}
