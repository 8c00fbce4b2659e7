/*
 * What all models share.
 *
 * say(text)            a step's words in a trace
 * tell(text, who)      with who did it, or to what
 * witness(NAME, when)  with -DWITNESS the checker tells when it first comes here, so that
 *                      nothing is proven true by never happening
 * older(age, most)     an age counts up to the value at which it stops to matter
 */
#define say(text) printf(text)
#define tell(text, ...) printf(text, __VA_ARGS__)

#ifdef WITNESS
c_decl {
    static void reach(const char *name)
    {   static const char *known[64];
        static int n;
        int at = 0;
        while (at < n && strcmp(known[at], name) != 0) at++;
        if (at == n) { known[n++] = name; printf("reached: %s\n", name); }
    }
}
#define witness(name, when) if :: (when) -> c_code { reach(#name); } :: else fi
#else
#define witness(name, when) skip
#endif

inline older(age, most) { if :: age < most -> age++ :: else fi }
