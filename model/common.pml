/*
 * What all models share.
 *
 * say(text)            a step's words in a trace
 * tell(text, who)      with who did it, or to what
 * witness(NAME, when)  something that has to be able to happen
 * older(age, most)     an age counts up to the value at which it stops to matter
 *
 * With -DWITNESS the checker tells when it first comes to each of the first three, so
 * that nothing is proven true by never happening.
 */
#ifdef WITNESS
#define reached(what) \
    c_code { static char told; if (!told) { told = 1; printf("reached: %s\n", what); } }
#define say(text) reached(text)
#define tell(text, ...) reached(text)
#define witness(name, when) if :: (when) -> reached(#name) :: else fi
#else
#define say(text) printf(text)
#define tell(text, ...) printf(text, __VA_ARGS__)
#define witness(name, when) skip
#endif

inline older(age, most) { if :: age < most -> age++ :: else fi }
