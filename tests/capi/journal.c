/* What a process that was killed has left behind is reclaimed by the next one on the same journal, through a driver in C,
 * by what its start has recorded. */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common.h"

static int told[2];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static char reclaimed[64];

/* It tells its key, and never returns: the process is killed in the middle. */
static int32_t start(void *context, lw_start *call, const lw_start_request *request, void **instance)
{
    (void)context, (void)instance;
    OK(lw_start_record(call, "resource 7"));
    MUST(write(told[1], request->key, 32) == 32);
    EXPECT(LW_ERROR_CANCELLED, lw_start_sleep(call, LW_FOREVER));
    return LW_ANSWER_FAILED;
}

static int32_t stop(void *context, lw_stop *call, const lw_stop_request *request)
{
    (void)call;
    (void)context, (void)request;
    return LW_ANSWER_OK;
}

static int32_t reclaim(void *context, lw_reclaim *call, const lw_leftover *leftover)
{
    (void)context, (void)call;
    MUST(leftover->id_count == 1 && strcmp(leftover->ids[0], "resource 7") == 0);
    MUST(leftover->stage == 1 && leftover->epoch == 1 && leftover->age_ms < MINUTE);
    pthread_mutex_lock(&lock);
    strcpy(reclaimed, leftover->key);
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    return LW_ANSWER_OK;
}

static lw_master *master_on(const char *journal)
{
    GROWING(lw_master_options, settings);
    settings.journal = journal;
    lw_master *master;
    OK(lw_master_new(&settings, &master));
    GROWING(lw_driver, driver);
    driver.start = start;
    driver.stop = stop;
    driver.reclaim = reclaim;
    GROWING(lw_worker_options, options);
    options.name = "c";
    OK(lw_master_add_driver(master, &options, &driver, NULL));
    return master;
}

int main(void)
{
    char folder[] = "/tmp/lw-journal-XXXXXX", path[64];
    MUST(mkdtemp(folder) != NULL);
    snprintf(path, sizeof path, "%s/journal", folder);
    MUST(pipe(told) == 0);
    pid_t child = fork(); /* before the library is used */
    MUST(child >= 0);
    if (child == 0) {
        lw_ticket *ticket = submit(master_on(path), "never done");
        lw_lease *lease;
        lw_ticket_wait(ticket, LW_FOREVER, &lease);
        _exit(1);
    }
    char key[33] = "";
    for (size_t length = 0; length < 32;) {
        ssize_t more = read(told[0], key + length, 32 - length);
        MUST(more > 0);
        length += (size_t)more;
    }
    lw_master *refused;
    GROWING(lw_master_options, settings);
    settings.journal = path;
    EXPECT(LW_ERROR_JOURNAL, lw_master_new(&settings, &refused));
    MUST(contains(lw_last_error_message(), "in use"));
    MUST(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);

    lw_master *master = master_on(path);
    pthread_mutex_lock(&lock);
    while (reclaimed[0] == '\0') {
        pthread_cond_wait(&changed, &lock);
    }
    pthread_mutex_unlock(&lock);
    MUST(strcmp(reclaimed, key) == 0);
    OK(lw_master_shutdown(master, LW_SHUTDOWN_GRACEFUL, MINUTE, NULL));
    const char *json;
    OK(lw_master_status(master, &json));
    MUST(contains(json, "\"leftovers\":[]"));
    OK(lw_free(json));
    OK(lw_master_free(master));
    unlink(path);
    rmdir(folder);
    NOTHING_IS_LEFT();
    puts("journal: nothing was forgotten");
    return 0;
}
