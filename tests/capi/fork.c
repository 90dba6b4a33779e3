/* A process that forks in the middle: the child is told so by every function, at once, whatever other threads were doing
 * at the moment of the fork; the parent goes on. */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common.h"

static volatile int is_over;
/* Otherwise a process that was forked ends as nobody can look at: a checker of leaks would miss the stacks of the threads
 * that are not in it. */
static int is_ordinary_end;

static void end_well(void)
{
    if (is_ordinary_end) {
        exit(0); /* with all that is done then */
    }
    kill(getpid(), SIGKILL);
}

static void ended_well(pid_t child)
{
    int status;
    MUST(child > 0 && waitpid(child, &status, 0) == child);
    if (is_ordinary_end) {
        MUST(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    } else {
        MUST(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    }
}

static void *keep_busy(void *master_)
{
    lw_master *master = (lw_master *)master_;
    while (!is_over) {
        lw_ticket *ticket = submit(master, "nobody takes it");
        const char *json;
        OK(lw_master_status(master, &json));
        OK(lw_free(json));
        OK(lw_ticket_free(ticket));
    }
    return NULL;
}

/* In the child. What is checked is the code alone: nothing else may be touched. */
static void all_functions_tell_it(lw_master *master, lw_lease *lease)
{
    lw_master *made;
    lw_ticket *ticket;
    lw_inbox *inbox;
    const char *json;
    const lw_report *report;
    lw_worker *worker;
    uint32_t version;
    size_t handles, given;
    GROWING(lw_build, build);
    build.name = "build";
    version = 7;
    EXPECT(LW_ERROR_FORKED, lw_abi_version(&version));
    MUST(version == 7);
    EXPECT(LW_ERROR_FORKED, lw_live(&handles, &given));
    EXPECT(LW_ERROR_FORKED, lw_master_new(NULL, &made));
    EXPECT(LW_ERROR_FORKED, lw_master_submit(master, &build, &ticket));
    EXPECT(LW_ERROR_FORKED, lw_master_status(master, &json));
    EXPECT(LW_ERROR_FORKED, lw_master_worker(master, "c", &worker));
    EXPECT(LW_ERROR_FORKED, lw_master_shutdown(master, LW_SHUTDOWN_FAST, LW_FOREVER, &report));
    EXPECT(LW_ERROR_FORKED, lw_master_free(master));
    EXPECT(LW_ERROR_FORKED, lw_inbox_new(&inbox));
    EXPECT(LW_ERROR_FORKED, lw_lease_wait_end(lease, LW_FOREVER));
    EXPECT(LW_ERROR_FORKED, lw_lease_free(lease));
    EXPECT(LW_ERROR_FORKED, lw_free(NULL));
    MUST(contains(lw_last_error_message(), "forked"));
}

static void fork_and_look(lw_master *master, lw_lease *lease)
{
    pid_t child = fork();
    if (child == 0) {
        alarm(20); /* a child that hangs is a failure */
        all_functions_tell_it(master, lease);
        pid_t grandchild = fork();
        if (grandchild == 0) {
            alarm(20);
            all_functions_tell_it(master, lease);
            end_well();
        }
        ended_well(grandchild);
        end_well();
    }
    ended_well(child);
}

static lw_master *master_of_callbacks;

static int32_t start(void *context, lw_start *call, const lw_start_request *request, void **instance)
{
    (void)context, (void)request, (void)instance;
    fork_and_look(master_of_callbacks, NULL);
    OK(lw_start_attach(call, NULL, NULL));
    return LW_ANSWER_OK;
}

/* A copy of the process that goes back into the library is ended there. */
static int is_copy;

static int32_t stop(void *context, lw_stop *call, const lw_stop_request *request)
{
    (void)call;
    (void)context, (void)request;
    fork_and_look(master_of_callbacks, NULL);
    pid_t child = fork();
    if (child == 0) {
        alarm(20);
        is_copy = 1;
        return LW_ANSWER_OK;
    }
    int status;
    MUST(!is_copy && child > 0 && waitpid(child, &status, 0) == child);
    MUST(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    return LW_ANSWER_OK;
}

int main(int argc, char **argv)
{
    is_ordinary_end = argc > 1 && strcmp(argv[1], "exit") == 0;
    /* Before the library is used, a fork is as good as its parent. */
    pid_t early = fork();
    if (early == 0) {
        OK(lw_master_free(new_master()));
        end_well();
    }
    ended_well(early);

    lw_master *master = new_master();
    master_of_callbacks = master;
    GROWING(lw_driver, driver);
    driver.start = start;
    driver.stop = stop;
    GROWING(lw_worker_options, options);
    options.name = "c";
    const char *label = "forks";
    options.labels = &label;
    options.label_count = 1;
    OK(lw_master_add_driver(master, &options, &driver, NULL));
    GROWING(lw_build, build);
    build.name = "held";
    build.labels = &label;
    build.label_count = 1;
    lw_ticket *ticket;
    OK(lw_master_submit(master, &build, &ticket));
    lw_lease *lease = lease_of(ticket);

    pthread_t busy[2];
    for (int i = 0; i < 2; i++) {
        MUST(pthread_create(&busy[i], NULL, keep_busy, master) == 0);
    }
    for (int i = 0; i < 50; i++) {
        fork_and_look(master, lease);
    }
    is_over = 1;
    for (int i = 0; i < 2; i++) {
        MUST(pthread_join(busy[i], NULL) == 0);
    }

    OK(lw_lease_finish(lease, LW_RESULT_SUCCEEDED, NULL));
    OK(lw_ticket_free(ticket));
    OK(lw_master_shutdown(master, LW_SHUTDOWN_GRACEFUL, MINUTE, NULL));
    OK(lw_master_free(master));
    NOTHING_IS_LEFT();
    puts("fork: every child was told");
    return 0;
}
