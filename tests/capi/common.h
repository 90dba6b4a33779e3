/* What the C programs of the tests share: checks that say where they failed, and things that most of them need. C99 that
 * is C++ as well. */
#ifndef COMMON_H
#define COMMON_H

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "latent_worker.h"

#define MUST(condition)                                                                       \
    do {                                                                                      \
        if (!(condition)) {                                                                   \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);           \
            abort();                                                                          \
        }                                                                                     \
    } while (0)

/* The call must return this code. */
#define EXPECT(expected, call)                                                                \
    do {                                                                                      \
        int code_ = (int)(call);                                                              \
        if (code_ != (int)(expected)) {                                                       \
            fprintf(stderr, "%s:%d: %s: %d and not %s: %s\n", __FILE__, __LINE__, #call,      \
                    code_, #expected, lw_last_error_message());                               \
            abort();                                                                          \
        }                                                                                     \
    } while (0)

#define OK(call) EXPECT(LW_OK, call)

/* A structure of zeros with its size. */
#define GROWING(type, name)                                                                   \
    type name;                                                                                \
    memset(&name, 0, sizeof name);                                                            \
    name.size = sizeof name

#define MINUTE 60000

#define SLEEP_10_MS() poll(NULL, 0, 10)

static inline lw_master *new_master(void)
{
    lw_master *master;
    OK(lw_master_new(NULL, &master));
    return master;
}

static inline lw_ticket *submit(lw_master *master, const char *name)
{
    GROWING(lw_build, build);
    build.name = name;
    lw_ticket *ticket;
    OK(lw_master_submit(master, &build, &ticket));
    return ticket;
}

static inline lw_lease *lease_of(lw_ticket *ticket)
{
    lw_lease *lease;
    OK(lw_ticket_wait(ticket, MINUTE, &lease));
    return lease;
}

static inline int contains(const char *text, const char *part)
{
    return strstr(text, part) != NULL;
}

/* A program that is not there. Valgrind has it found out by a process that is there already. */
static inline void is_not_run(lw_lease *lease, const lw_command *command)
{
    const lw_finished *finished;
    lw_code code = lw_lease_run(lease, command, &finished);
    if (code == LW_OK) {
        MUST(finished->exit == LW_EXIT_CODE && finished->code == 127);
        OK(lw_free(finished));
    } else {
        MUST(code == LW_ERROR_COMMAND && finished == NULL);
    }
}

/* Everything that was given out has come back. */
#define NOTHING_IS_LEFT()                                                                     \
    do {                                                                                      \
        size_t handles_ = 1, given_ = 1;                                                      \
        /* A callback that is about to return has a handle still. */                          \
        for (int i_ = 0; i_ < 6000 && (handles_ != 0 || given_ != 0); i_++) {                 \
            if (i_ > 0) {                                                                     \
                SLEEP_10_MS();                                                                \
            }                                                                                 \
            OK(lw_live(&handles_, &given_));                                                  \
        }                                                                                     \
        MUST(handles_ == 0);                                                                  \
        MUST(given_ == 0);                                                                    \
    } while (0)

#endif
