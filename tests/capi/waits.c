/* Waits that must come to an end: what one thread waits for is taken away by another one, or could only come after the
 * callback that waits for it. */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <time.h>

#include "common.h"

/* How many callbacks of the driver were called. */
static volatile int starts, stops, releases;
static volatile int stop_is_slow;
static lw_worker *volatile own_worker;
static lw_master *volatile own_master;

/* Until another thread is likely to wait: it cannot tell. */
static void nap(long milliseconds)
{
    struct timespec time;
    time.tv_sec = 0;
    time.tv_nsec = milliseconds * 1000000;
    nanosleep(&time, NULL);
}

static const char *text_of(int number)
{
    static const char *const texts[] = {"a", "b"};
    return texts[number % 2];
}

/* More pieces than there is room for while nobody reads yet. */
static int32_t start_command(void *context, const lw_command *command, lw_process *process)
{
    (void)context, (void)command;
    for (int i = 0; i < 40; i++) {
        OK(lw_process_write(process, LW_STREAM_OUT, (const uint8_t *)text_of(i), 1));
    }
    static uint8_t much[1 << 20];
    EXPECT(LW_ERROR_UNSUPPORTED, lw_process_write(process, LW_STREAM_OUT, much, sizeof much));
    /* The lease that this command is for is out: nobody here can wait for its end. */
    const lw_report *report;
    EXPECT(LW_ERROR_TIMEOUT, lw_master_shutdown(own_master, LW_SHUTDOWN_GRACEFUL, LW_FOREVER, &report));
    MUST(!report->complete);
    OK(lw_free(report));
    OK(lw_process_end(process, LW_EXIT_CODE, 0));
    return LW_ANSWER_OK;
}

static int32_t start(void *context, lw_start *call, const lw_start_request *request, void **instance)
{
    (void)context, (void)request, (void)instance;
    starts++;
    GROWING(lw_agent, agent);
    agent.start_command = start_command;
    OK(lw_start_attach(call, &agent, NULL));
    if (own_worker != NULL) {
        EXPECT(LW_ERROR_TIMEOUT, lw_worker_insubstantiate(own_worker, 1, LW_FOREVER));
    }
    return LW_ANSWER_OK;
}

static int32_t stop(void *context, lw_stop *call, const lw_stop_request *request)
{
    (void)call;
    (void)context, (void)request;
    if (stop_is_slow) {
        nap(200);
    }
    stops++;
    return LW_ANSWER_OK;
}

static void release(void *context)
{
    (void)context;
    releases++;
}

static lw_worker *add(lw_master *master)
{
    GROWING(lw_driver, driver);
    driver.start = start;
    driver.stop = stop;
    driver.release = release;
    GROWING(lw_worker_options, options);
    options.name = "w";
    lw_worker *worker;
    OK(lw_master_add_driver(master, &options, &driver, &worker));
    return worker;
}

static void *wait_for_the_end(void *lease)
{
    EXPECT(LW_ERROR_ENDED, lw_lease_wait_end((lw_lease *)lease, LW_FOREVER));
    return NULL;
}

static void *run_for_long(void *lease)
{
    GROWING(lw_command, command);
    command.shell = "echo begun > begun; exec sleep 600";
    const lw_finished *finished;
    lw_code code = lw_lease_run((lw_lease *)lease, &command, &finished);
    /* The lease may be given back when the command has begun and the call has not noted that yet. */
    MUST(code == LW_ERROR_HANDLE || (code == LW_OK && finished->exit != LW_EXIT_CODE));
    OK(lw_free(finished));
    return NULL;
}

/* A lease that is given back is given back, whoever waits on it or runs something there. */
static void given_back_while_others_use_it(void)
{
    lw_master *master = new_master();
    GROWING(lw_worker_options, options);
    options.name = "local";
    OK(lw_master_add_local(master, &options, NULL, NULL));
    lw_ticket *ticket = submit(master, "watched");
    lw_lease *lease = lease_of(ticket);
    pthread_t watcher, runner;
    MUST(pthread_create(&watcher, NULL, wait_for_the_end, lease) == 0);
    MUST(pthread_create(&runner, NULL, run_for_long, lease) == 0);
    GROWING(lw_command, look);
    look.shell = "until [ -e begun ]; do sleep 0.02; done";
    const lw_finished *finished;
    OK(lw_lease_run(lease, &look, &finished));
    MUST(finished->exit == LW_EXIT_CODE && finished->code == 0);
    OK(lw_free(finished));
    OK(lw_lease_finish(lease, LW_RESULT_SUCCEEDED, NULL));
    MUST(pthread_join(watcher, NULL) == 0);
    MUST(pthread_join(runner, NULL) == 0);
    /* The place is free for the next build. */
    lw_ticket *next = submit(master, "next");
    OK(lw_lease_free(lease_of(next)));
    OK(lw_ticket_free(next));
    OK(lw_ticket_free(ticket));
    OK(lw_master_free(master));
}

static void *take_from_inbox(void *inbox)
{
    uint64_t number;
    lw_lease *lease;
    lw_code code = lw_inbox_take((lw_inbox *)inbox, LW_FOREVER, &number, &lease);
    /* Freed while it waits, or before. */
    MUST((code == LW_ERROR_ENDED || code == LW_ERROR_HANDLE) && number == 0 && lease == NULL);
    return NULL;
}

static void *take_from_events(void *events)
{
    const lw_event *event;
    lw_code code;
    while ((code = lw_events_take((lw_events *)events, LW_FOREVER, &event)) == LW_OK) {
        OK(lw_free(event));
    }
    MUST(code == LW_ERROR_ENDED || code == LW_ERROR_HANDLE);
    return NULL;
}

static void freed_while_somebody_takes(void)
{
    lw_master *master = new_master();
    lw_inbox *inbox;
    lw_events *events;
    OK(lw_inbox_new(&inbox));
    OK(lw_master_events(master, 10, &events));
    pthread_t takers[2];
    MUST(pthread_create(&takers[0], NULL, take_from_inbox, inbox) == 0);
    MUST(pthread_create(&takers[1], NULL, take_from_events, events) == 0);
    nap(50);
    OK(lw_inbox_free(inbox));
    OK(lw_events_free(events));
    MUST(pthread_join(takers[0], NULL) == 0);
    MUST(pthread_join(takers[1], NULL) == 0);
    OK(lw_master_free(master));
}

static void *wait_for_an_answer(void *ticket)
{
    lw_lease *lease;
    lw_code code = lw_ticket_wait((lw_ticket *)ticket, LW_FOREVER, &lease);
    MUST(code != LW_OK && lease == NULL);
    return NULL;
}

static void *wait_for_a_shutdown(void *master)
{
    lw_master_shutdown((lw_master *)master, LW_SHUTDOWN_GRACEFUL, LW_FOREVER, NULL);
    return NULL;
}

/* A master that is freed stops its instances before the call returns, whatever calls on it are under way. */
static void freed_while_others_wait(void)
{
    lw_master *master = new_master();
    lw_worker *worker = add(master);
    lw_ticket *ticket = submit(master, "held");
    lw_lease *lease = lease_of(ticket);
    lw_ticket *waiting = submit(master, "waits");
    pthread_t waiters[2];
    MUST(pthread_create(&waiters[0], NULL, wait_for_an_answer, waiting) == 0);
    MUST(pthread_create(&waiters[1], NULL, wait_for_a_shutdown, master) == 0);
    nap(50);
    stop_is_slow = 1;
    int before = stops;
    OK(lw_master_free(master));
    MUST(stops == before + 1);
    stop_is_slow = 0;
    MUST(pthread_join(waiters[0], NULL) == 0);
    MUST(pthread_join(waiters[1], NULL) == 0);
    OK(lw_lease_free(lease));
    OK(lw_ticket_free(waiting));
    OK(lw_ticket_free(ticket));
    OK(lw_worker_free(worker));
}

/* What would wait for its own end does not wait. */
static void callbacks_that_wait_for_themselves(void)
{
    lw_master *master = new_master();
    own_worker = add(master);
    lw_ticket *stopped = submit(master, "its instance is stopped by its own start");
    lw_lease *lease;
    lw_code code = lw_ticket_wait(stopped, MINUTE, &lease);
    MUST(code == LW_OK || code == LW_ERROR_LEASE_STOPPED);
    OK(lw_lease_free(lease));
    OK(lw_ticket_free(stopped));
    OK(lw_worker_insubstantiate(own_worker, 1, MINUTE));
    OK(lw_worker_free(own_worker));
    own_worker = NULL;
    OK(lw_master_free(master));

    own_master = new_master();
    lw_worker *worker = add(own_master);
    lw_ticket *ticket = submit(own_master, "its command shuts the master down");
    lease = lease_of(ticket);
    GROWING(lw_command, command);
    command.shell = "anything";
    const lw_finished *finished;
    OK(lw_lease_run(lease, &command, &finished));
    MUST(finished->out_length == 40 && finished->out[1] == 'b' && finished->out[38] == 'a');
    OK(lw_free(finished));
    OK(lw_lease_finish(lease, LW_RESULT_SUCCEEDED, NULL));
    OK(lw_ticket_free(ticket));
    OK(lw_worker_free(worker));
    OK(lw_master_shutdown(own_master, LW_SHUTDOWN_GRACEFUL, MINUTE, NULL));
    OK(lw_master_free(own_master));
}

int main(void)
{
    given_back_while_others_use_it();
    freed_while_somebody_takes();
    freed_while_others_wait();
    callbacks_that_wait_for_themselves();
    MUST(starts > 0 && releases == 3);
    NOTHING_IS_LEFT();
    puts("waits: all came to their end");
    return 0;
}
