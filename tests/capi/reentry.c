/* Every callback calls every function: on the master that it is called by, and on another one where a call would put an
 * end to what the test is about. After that, in one run for each callback, it stops its own worker, shuts its own master
 * down and frees it, all without a limit of time. Nothing may hang, crash or leak. */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>

#include "common.h"
#include "counting.h"

typedef enum callback {
    START,
    STOP,
    CHECK,
    COMPATIBLE,
    KIND,
    RECLAIM,
    RELEASE,
    AGENT_START_COMMAND,
    AGENT_INTERRUPT,
    AGENT_CLOSE,
    AGENT_RELEASE,
    OBSERVER,
    OBSERVER_RELEASE,
    CALLBACKS,
    NONE = CALLBACKS
} callback;

/* A master whose callbacks do all that. */
typedef struct scene {
    lw_master *master;
    lw_worker *worker;
    lw_lease *lease;
    lw_running *running;
    callback ends_in;
    int has_run[CALLBACKS], has_done[CALLBACKS], has_ended;
    int releases, observer_releases, reclaims;
} scene;

/* Another master at work, with a driver that does nothing of the kind. */
typedef struct twin {
    lw_master *master;
    lw_worker *worker;
    lw_ticket *ticket, *waiting;
    lw_lease *lease;
    lw_inbox *inbox;
    lw_events *events;
    lw_observer *observer;
    lw_running *running;
    lw_process *process;
    lw_attachment *attachment;
    int attached, taken;
} twin;

static int twins_made, twins_gone;

/* Where the calls come from, and the handles that are only there. */
typedef struct place {
    scene *own;
    twin *other;
    lw_start *start;
    lw_stop *stop;
    lw_reclaim *reclaim;
    lw_process *process;
    int attaches;
} place;

static void fill_agent_of(scene *self, lw_agent *agent);

/* ---------------------------------------------------------------------------------------------- the other master */

static int32_t twin_command(void *context, const lw_command *command, lw_process *process)
{
    if (strcmp(command->shell, "stays") == 0) {
        ((twin *)context)->process = process; /* within a call of whoever looks there */
    } else {
        OK(lw_process_write(process, LW_STREAM_OUT, (const uint8_t *)"text", 4));
        OK(lw_process_end(process, LW_EXIT_CODE, 0));
    }
    return LW_ANSWER_OK;
}

static void twin_interrupt(void *context, lw_process *process)
{
    (void)context;
    lw_code code = lw_process_end(process, LW_EXIT_INTERRUPTED, 0);
    MUST(code == LW_OK || code == LW_ERROR_HANDLE);
}

static int32_t twin_start(void *context, lw_start *start, const lw_start_request *request, void **instance)
{
    (void)request, (void)instance;
    twin *self = (twin *)context;
    GROWING(lw_agent, agent);
    agent.context = self;
    agent.start_command = twin_command;
    agent.interrupt = twin_interrupt;
    OK(lw_start_attach(start, &agent, &self->attachment));
    add(&self->attached);
    return LW_ANSWER_OK;
}

static int32_t twin_stop(void *context, lw_stop *call, const lw_stop_request *request)
{
    (void)call;
    (void)context, (void)request;
    return LW_ANSWER_OK;
}

static void twin_release(void *context)
{
    free(context);
    add(&twins_gone);
}

static void ignore(void *context, const lw_event *event)
{
    (void)context, (void)event;
}

static lw_lease *twin_lease(twin *self)
{
    lw_ticket *ticket = submit(self->master, "another");
    lw_lease *lease = lease_of(ticket);
    OK(lw_ticket_free(ticket));
    return lease;
}

static lw_running *twin_running(twin *self)
{
    GROWING(lw_command, command);
    command.shell = "stays";
    lw_running *running;
    OK(lw_lease_start(self->lease, &command, &running));
    return running;
}

static void fill_nobodys(lw_build *build)
{
    static const char *const labels[] = {"nobody has it"};
    build->name = "from a callback";
    build->labels = labels;
    build->label_count = 1;
}

static twin *new_twin(void)
{
    twin *self = (twin *)calloc(1, sizeof *self);
    add(&twins_made);
    self->master = new_master();
    OK(lw_master_events(self->master, 100, &self->events));
    GROWING(lw_driver, driver);
    driver.context = self;
    driver.start = twin_start;
    driver.stop = twin_stop;
    driver.release = twin_release;
    GROWING(lw_worker_options, options);
    options.name = "twin";
    options.max_builds = 10;
    OK(lw_master_add_driver(self->master, &options, &driver, &self->worker));
    self->ticket = submit(self->master, "first");
    self->lease = lease_of(self->ticket);
    OK(lw_inbox_new(&self->inbox));
    OK(lw_master_observe(self->master, 1, ignore, NULL, NULL, &self->observer));
    self->running = twin_running(self);
    self->waiting = submit(self->master, "second");
    return self;
}

/* Whatever is freed already is told. The driver's context goes last, with the driver. */
static void free_twin(twin *self)
{
    lw_running_free(self->running);
    lw_lease_free(self->lease);
    OK(lw_ticket_free(self->ticket));
    lw_ticket_free(self->waiting);
    lw_inbox_free(self->inbox);
    lw_events_free(self->events);
    lw_observer_free(self->observer);
    lw_worker_free(self->worker);
    OK(lw_master_free(self->master));
}

/* ------------------------------------------------------------------------------------------------- all functions */

/* The call says this, unless it is about what was ended meanwhile. */
#define OWN(expected, call)                                                                   \
    do {                                                                                      \
        int own_ = (int)(call);                                                               \
        if (look(&at->own->has_ended)) {                                                      \
            IS_NO_DEFECT(own_, #call);                                                        \
        } else {                                                                              \
            EXPECT(expected, own_);                                                           \
        }                                                                                     \
    } while (0)

/* The call is about what comes and goes. */
#define ANY(call)                                                                             \
    do {                                                                                      \
        int any_ = (int)(call);                                                               \
        IS_NO_DEFECT(any_, #call);                                                            \
    } while (0)

#define IS_NO_DEFECT(code, call)                                                              \
    do {                                                                                      \
        if (code == LW_ERROR_PANIC || code == LW_ERROR_ARGUMENT || code == LW_ERROR_FORKED) { \
            fprintf(stderr, "%s: %d: %s\n", call, code, lw_last_error_message());             \
            abort();                                                                          \
        }                                                                                     \
    } while (0)

#define CALL(name) static void call_##name(place *at)
#define UNUSED (void)at

CALL(lw_abi_version)
{
    UNUSED;
    uint32_t version;
    OK(lw_abi_version(&version));
    MUST(version == LW_ABI_VERSION);
}

CALL(lw_last_error_message)
{
    UNUSED;
    EXPECT(LW_ERROR_ARGUMENT, lw_abi_version(NULL));
    MUST(contains(lw_last_error_message(), "version"));
}

CALL(lw_free)
{
    const char *json;
    OK(lw_master_status(at->other->master, &json));
    OK(lw_free(json));
    EXPECT(LW_ERROR_HANDLE, lw_free(json));
}

CALL(lw_live)
{
    UNUSED;
    size_t handles, given;
    OK(lw_live(&handles, &given));
    MUST(handles > 0);
}

CALL(lw_has_feature)
{
    UNUSED;
    int has;
    OK(lw_has_feature("local", &has));
    MUST(has);
}

CALL(lw_set_reason)
{
    UNUSED;
    OK(lw_set_reason("a reason of a callback"));
}

CALL(lw_set_kind)
{
    UNUSED;
    OK(lw_set_kind(NULL));
}

CALL(lw_master_new)
{
    UNUSED;
    lw_master *master;
    OK(lw_master_new(NULL, &master));
    OK(lw_master_free(master));
}

CALL(lw_master_address)
{
    const char *address;
    OWN(LW_ERROR_ENDED, lw_master_address(at->own->master, &address));
    MUST(address == NULL);
}

CALL(lw_master_status)
{
    const char *json;
    OWN(LW_OK, lw_master_status(at->own->master, &json));
    OK(lw_free(json));
}

CALL(lw_master_queue)
{
    const char *json;
    OK(lw_master_queue(at->other->master, NULL, 10, &json));
    OK(lw_free(json));
    ANY(lw_master_queue(at->own->master, NULL, 10, &json));
    OK(lw_free(json));
}

CALL(lw_master_build_status)
{
    uint64_t number;
    const char *json;
    OK(lw_ticket_build(at->other->waiting, &number));
    OK(lw_master_build_status(at->other->master, number, &json));
    OK(lw_free(json));
    ANY(lw_master_build_status(at->own->master, 1, &json));
    OK(lw_free(json));
}

CALL(lw_master_forget_leftover)
{
    OWN(LW_ERROR_ENDED, lw_master_forget_leftover(at->own->master, "no such key"));
}

CALL(lw_master_cancel)
{
    uint64_t number;
    lw_ticket *ticket = submit(at->other->master, "cancelled");
    OK(lw_ticket_build(ticket, &number));
    OK(lw_master_cancel(at->other->master, number));
    OK(lw_ticket_free(ticket));
    OWN(LW_ERROR_ENDED, lw_master_cancel(at->own->master, (uint64_t)1 << 40));
}

CALL(lw_master_worker)
{
    lw_worker *worker;
    OWN(LW_OK, lw_master_worker(at->own->master, "own", &worker));
    OK(lw_worker_free(worker));
}

CALL(lw_worker_status)
{
    const char *json;
    OWN(LW_OK, lw_worker_status(at->own->worker, &json));
    OK(lw_free(json));
}

CALL(lw_worker_pause)
{
    OWN(LW_OK, lw_worker_pause(at->own->worker));
}

CALL(lw_worker_unpause)
{
    OWN(LW_OK, lw_worker_unpause(at->own->worker));
}

CALL(lw_worker_free)
{
    lw_worker *worker;
    OK(lw_master_worker(at->other->master, "twin", &worker));
    OK(lw_worker_free(worker));
}

static void add_workers(lw_code (*add_worker)(lw_master *, const lw_worker_options *), lw_code expected)
{
    lw_master *master = new_master();
    GROWING(lw_worker_options, options);
    options.name = "added";
    EXPECT(expected, add_worker(master, &options));
    OK(lw_master_free(master));
}

static void release_nothing(void *context)
{
    add((int *)context);
}

static int added_releases, added_drivers;

static lw_code add_driver(lw_master *master, const lw_worker_options *options)
{
    GROWING(lw_driver, driver);
    driver.context = &added_releases;
    driver.start = twin_start;
    driver.stop = twin_stop;
    driver.release = release_nothing;
    add(&added_drivers);
    return lw_master_add_driver(master, options, &driver, NULL);
}

CALL(lw_master_add_driver)
{
    UNUSED;
    add_workers(add_driver, LW_OK);
}

static lw_code add_local(lw_master *master, const lw_worker_options *options)
{
    return lw_master_add_local(master, options, NULL, NULL);
}

CALL(lw_master_add_local)
{
    UNUSED;
    add_workers(add_local, LW_OK);
}

static lw_code add_command(lw_master *master, const lw_worker_options *options)
{
    static const char *const words[] = {"/bin/true"};
    GROWING(lw_command_options, command);
    command.start = command.stop = words;
    command.start_count = command.stop_count = 1;
    return lw_master_add_command(master, options, &command, NULL);
}

CALL(lw_master_add_command)
{
    UNUSED;
    add_workers(add_command, LW_OK);
}

static lw_code add_process(lw_master *master, const lw_worker_options *options)
{
    static const char *const words[] = {"/bin/true"};
    GROWING(lw_process_options, process);
    process.agent = words;
    process.agent_count = 1;
    return lw_master_add_process(master, options, &process, NULL);
}

CALL(lw_master_add_process)
{
    UNUSED;
    add_workers(add_process, LW_OK);
}

static lw_code add_docker(lw_master *master, const lw_worker_options *options)
{
    return lw_master_add_docker(master, options, "{\"image\": \"agent\"}", NULL);
}

CALL(lw_master_add_docker)
{
    UNUSED;
    add_workers(add_docker, LW_ERROR_UNSUPPORTED);
}

static lw_code add_ec2(lw_master *master, const lw_worker_options *options)
{
    return lw_master_add_ec2(master, options, "{}", NULL);
}

CALL(lw_master_add_ec2)
{
    UNUSED;
    add_workers(add_ec2, LW_ERROR_UNSUPPORTED);
}

CALL(lw_master_submit)
{
    GROWING(lw_build, build);
    fill_nobodys(&build);
    lw_ticket *ticket;
    OWN(LW_OK, lw_master_submit(at->own->master, &build, &ticket));
    OK(lw_ticket_free(ticket));
}

CALL(lw_ticket_build)
{
    uint64_t number;
    OK(lw_ticket_build(at->other->ticket, &number));
    MUST(number == 1);
}

CALL(lw_ticket_wait)
{
    /* An answer that comes at once, however long one would wait. */
    GROWING(lw_build, build);
    fill_nobodys(&build);
    lw_ticket *ticket;
    lw_lease *lease;
    OWN(LW_OK, lw_master_submit(at->own->master, &build, &ticket));
    if (ticket != NULL) {
        OWN(LW_ERROR_NO_WORKER_FITS, lw_ticket_wait(ticket, LW_FOREVER, &lease));
        MUST(lease == NULL);
        OK(lw_ticket_free(ticket));
    }
}

CALL(lw_ticket_cancel)
{
    lw_ticket *ticket = submit(at->other->master, "cancelled");
    OK(lw_ticket_cancel(ticket));
    OK(lw_ticket_free(ticket));
}

CALL(lw_ticket_free)
{
    OK(lw_ticket_free(submit(at->other->master, "freed")));
}

CALL(lw_inbox_new)
{
    UNUSED;
    lw_inbox *inbox;
    OK(lw_inbox_new(&inbox));
    OK(lw_inbox_free(inbox));
}

CALL(lw_master_submit_to)
{
    GROWING(lw_build, build);
    fill_nobodys(&build);
    uint64_t number;
    OWN(LW_OK, lw_master_submit_to(at->own->master, &build, at->other->inbox, &number));
    if (number != 0) {
        lw_lease *lease;
        OWN(LW_ERROR_NO_WORKER_FITS, lw_inbox_take(at->other->inbox, LW_FOREVER, &number, &lease));
        MUST(number != 0 && lease == NULL);
    }
}

CALL(lw_inbox_take)
{
    uint64_t number;
    lw_lease *lease;
    EXPECT(LW_ERROR_TIMEOUT, lw_inbox_take(at->other->inbox, 0, &number, &lease));
}

CALL(lw_inbox_fd)
{
    int fd;
    OK(lw_inbox_fd(at->other->inbox, &fd));
    MUST(fd >= 0);
}

CALL(lw_inbox_free)
{
    UNUSED;
    lw_inbox *inbox;
    int fd;
    OK(lw_inbox_new(&inbox));
    OK(lw_inbox_fd(inbox, &fd));
    OK(lw_inbox_free(inbox));
}

CALL(lw_lease_get_info)
{
    const lw_lease_info *info;
    OK(lw_lease_get_info(at->other->lease, &info));
    OK(lw_free(info));
    ANY(lw_lease_get_info(at->own->lease, &info));
    OK(lw_free(info));
}

CALL(lw_lease_wait_end)
{
    EXPECT(LW_ERROR_TIMEOUT, lw_lease_wait_end(at->other->lease, 0));
    ANY(lw_lease_wait_end(at->own->lease, 0));
}

CALL(lw_lease_run)
{
    GROWING(lw_command, command);
    command.shell = "ends";
    const lw_finished *finished;
    OK(lw_lease_run(at->other->lease, &command, &finished));
    OK(lw_free(finished));
    /* With an agent's callback within an agent's callback, perhaps. */
    ANY(lw_lease_run(at->own->lease, &command, &finished));
    OK(lw_free(finished));
}

CALL(lw_lease_start)
{
    GROWING(lw_command, command);
    command.shell = "ends";
    lw_running *running;
    OK(lw_lease_start(at->other->lease, &command, &running));
    OK(lw_running_free(running));
    ANY(lw_lease_start(at->own->lease, &command, &running));
    ANY(lw_running_free(running));
}

CALL(lw_running_read)
{
    uint8_t buffer[8];
    GROWING(lw_output, output);
    ANY(lw_running_read(at->own->running, 0, buffer, sizeof buffer, &output));
    EXPECT(LW_ERROR_TIMEOUT, lw_running_read(at->other->running, 0, buffer, sizeof buffer, &output));
}

CALL(lw_running_interrupt)
{
    lw_running *running = twin_running(at->other);
    OK(lw_running_interrupt(running));
    OK(lw_running_free(running));
}

CALL(lw_running_free)
{
    OK(lw_running_free(twin_running(at->other)));
}

CALL(lw_lease_write_file)
{
    EXPECT(LW_ERROR_UNSUPPORTED, lw_lease_write_file(at->other->lease, "/dev/null", "file", 0));
    ANY(lw_lease_write_file(at->own->lease, "/dev/null", "file", 0));
}

CALL(lw_lease_read_file)
{
    EXPECT(LW_ERROR_UNSUPPORTED, lw_lease_read_file(at->other->lease, "file", "/dev/null"));
    ANY(lw_lease_read_file(at->own->lease, "file", "/dev/null"));
}

CALL(lw_lease_finish)
{
    OK(lw_lease_finish(twin_lease(at->other), LW_RESULT_FAILED, "of a callback"));
}

CALL(lw_lease_retry)
{
    OK(lw_lease_retry(twin_lease(at->other), "of a callback"));
}

CALL(lw_lease_retire)
{
    /* Its build does not come back, so that no other instance is started for it. */
    ANY(lw_ticket_cancel(at->other->ticket));
    OK(lw_lease_retire(at->other->lease, "of a callback"));
}

CALL(lw_lease_free)
{
    OK(lw_lease_free(twin_lease(at->other)));
}

CALL(lw_lease_agent)
{
    void *context;
    OK(lw_lease_agent(at->other->lease, &context));
    MUST(context == at->other);
    ANY(lw_lease_agent(at->own->lease, &context));
}

CALL(lw_process_write)
{
    lw_running *running = twin_running(at->other);
    OK(lw_process_write(at->other->process, LW_STREAM_OUT, (const uint8_t *)"text", 4));
    OK(lw_running_free(running));
    /* Within start_command that is where the output goes; elsewhere there is none. */
    ANY(lw_process_write(at->process, LW_STREAM_OUT, (const uint8_t *)"text", 4));
}

CALL(lw_process_end)
{
    lw_running *running = twin_running(at->other);
    OK(lw_process_end(at->other->process, LW_EXIT_CODE, 0));
    OK(lw_running_free(running));
}

CALL(lw_process_fail)
{
    lw_running *running = twin_running(at->other);
    OK(lw_process_fail(at->other->process, "of a callback"));
    OK(lw_running_free(running));
}

CALL(lw_master_events)
{
    lw_events *events;
    OWN(LW_OK, lw_master_events(at->own->master, 10, &events));
    OK(lw_events_free(events));
}

CALL(lw_events_take)
{
    const lw_event *event;
    OK(lw_events_take(at->other->events, LW_FOREVER, &event));
    OK(lw_free(event));
}

CALL(lw_events_fd)
{
    int fd;
    OK(lw_events_fd(at->other->events, &fd));
    MUST(fd >= 0);
}

CALL(lw_events_free)
{
    lw_events *events;
    OK(lw_master_events(at->other->master, 10, &events));
    OK(lw_events_free(events));
}

CALL(lw_master_observe)
{
    lw_observer *observer;
    OWN(LW_OK, lw_master_observe(at->own->master, 10, ignore, NULL, NULL, &observer));
    OK(lw_observer_free(observer));
}

CALL(lw_observer_free)
{
    OK(lw_observer_free(at->other->observer));
}

#define START_SAYS (at->start == NULL ? LW_ERROR_HANDLE : LW_OK)
#define STOP_SAYS (at->stop == NULL ? LW_ERROR_HANDLE : LW_OK)
#define RECLAIM_SAYS (at->reclaim == NULL ? LW_ERROR_HANDLE : LW_OK)

CALL(lw_start_cancelled)
{
    bool cancelled;
    EXPECT(START_SAYS, lw_start_cancelled(at->start, &cancelled));
}

CALL(lw_start_sleep)
{
    OWN(START_SAYS, lw_start_sleep(at->start, 1));
}

CALL(lw_start_record)
{
    OWN(START_SAYS, lw_start_record(at->start, "an id"));
}

CALL(lw_start_progress)
{
    EXPECT(START_SAYS, lw_start_progress(at->start, "getting there"));
}

CALL(lw_start_detail)
{
    EXPECT(START_SAYS, lw_start_detail(at->start, "a detail"));
}

CALL(lw_start_retry_after)
{
    EXPECT(START_SAYS, lw_start_retry_after(at->start, 1));
}

CALL(lw_start_attach)
{
    GROWING(lw_agent, agent);
    fill_agent_of(at->own, &agent);
    if (at->attaches) {
        OWN(LW_OK, lw_start_attach(at->start, &agent, NULL));
    } else {
        EXPECT(LW_ERROR_HANDLE, lw_start_attach(NULL, &agent, NULL));
    }
}

CALL(lw_stop_hurried)
{
    bool hurried;
    EXPECT(STOP_SAYS, lw_stop_hurried(at->stop, &hurried));
}

CALL(lw_stop_sleep)
{
    lw_code code = lw_stop_sleep(at->stop, 1);
    if (at->stop == NULL || code != LW_ERROR_HURRIED) {
        OWN(STOP_SAYS, code);
    }
}

CALL(lw_reclaim_cancelled)
{
    bool cancelled;
    EXPECT(RECLAIM_SAYS, lw_reclaim_cancelled(at->reclaim, &cancelled));
}

CALL(lw_reclaim_sleep)
{
    OWN(RECLAIM_SAYS, lw_reclaim_sleep(at->reclaim, 1));
}

/* The agent of the other master goes, with what uses it; a new one comes for the next lease. */
static lw_attachment *take_attachment(twin *self)
{
    OK(lw_lease_free(twin_lease(self)));
    await(&self->attached, ++self->taken);
    return self->attachment;
}

CALL(lw_attachment_lost)
{
    lw_attachment *attachment = take_attachment(at->other);
    OK(lw_attachment_lost(attachment, "of a callback"));
    EXPECT(LW_ERROR_LEASE_LOST, lw_lease_wait_end(at->other->lease, LW_FOREVER));
}

CALL(lw_attachment_free)
{
    OK(lw_attachment_free(take_attachment(at->other)));
}

CALL(lw_worker_insubstantiate)
{
    lw_code code = lw_worker_insubstantiate(at->other->worker, 1, LW_FOREVER);
    MUST(code == LW_OK || code == LW_ERROR_TIMEOUT);
}

CALL(lw_master_shutdown)
{
    const lw_report *report;
    lw_code code = lw_master_shutdown(at->other->master, LW_SHUTDOWN_GRACEFUL, LW_FOREVER, &report);
    MUST(code == LW_OK || code == LW_ERROR_TIMEOUT);
    MUST(report->complete == (code == LW_OK));
    OK(lw_free(report));
}

CALL(lw_master_free)
{
    UNUSED;
    OK(lw_master_free(new_master()));
}

#define ENTRY(name) {#name, call_##name}

/* In this order: the last ones put an end to what the others need. */
static const struct {
    const char *name;
    void (*call)(place *at);
} functions[] = {
    ENTRY(lw_abi_version),
    ENTRY(lw_last_error_message),
    ENTRY(lw_free),
    ENTRY(lw_live),
    ENTRY(lw_has_feature),
    ENTRY(lw_set_reason),
    ENTRY(lw_set_kind),
    ENTRY(lw_master_new),
    ENTRY(lw_master_address),
    ENTRY(lw_master_status),
    ENTRY(lw_master_build_status),
    ENTRY(lw_master_queue),
    ENTRY(lw_master_forget_leftover),
    ENTRY(lw_master_cancel),
    ENTRY(lw_master_worker),
    ENTRY(lw_worker_status),
    ENTRY(lw_worker_pause),
    ENTRY(lw_worker_unpause),
    ENTRY(lw_worker_free),
    ENTRY(lw_master_add_driver),
    ENTRY(lw_master_add_local),
    ENTRY(lw_master_add_command),
    ENTRY(lw_master_add_process),
    ENTRY(lw_master_add_docker),
    ENTRY(lw_master_add_ec2),
    ENTRY(lw_master_submit),
    ENTRY(lw_ticket_build),
    ENTRY(lw_ticket_wait),
    ENTRY(lw_ticket_cancel),
    ENTRY(lw_ticket_free),
    ENTRY(lw_inbox_new),
    ENTRY(lw_master_submit_to),
    ENTRY(lw_inbox_take),
    ENTRY(lw_inbox_fd),
    ENTRY(lw_inbox_free),
    ENTRY(lw_lease_get_info),
    ENTRY(lw_lease_wait_end),
    ENTRY(lw_lease_run),
    ENTRY(lw_lease_start),
    ENTRY(lw_running_read),
    ENTRY(lw_running_interrupt),
    ENTRY(lw_running_free),
    ENTRY(lw_lease_write_file),
    ENTRY(lw_lease_read_file),
    ENTRY(lw_lease_finish),
    ENTRY(lw_lease_retry),
    ENTRY(lw_lease_free),
    ENTRY(lw_lease_agent),
    ENTRY(lw_process_write),
    ENTRY(lw_process_end),
    ENTRY(lw_process_fail),
    ENTRY(lw_master_events),
    ENTRY(lw_events_take),
    ENTRY(lw_events_fd),
    ENTRY(lw_events_free),
    ENTRY(lw_master_observe),
    ENTRY(lw_observer_free),
    ENTRY(lw_start_cancelled),
    ENTRY(lw_start_sleep),
    ENTRY(lw_start_record),
    ENTRY(lw_start_progress),
    ENTRY(lw_start_detail),
    ENTRY(lw_start_retry_after),
    ENTRY(lw_start_attach),
    ENTRY(lw_stop_hurried),
    ENTRY(lw_stop_sleep),
    ENTRY(lw_reclaim_cancelled),
    ENTRY(lw_reclaim_sleep),
    ENTRY(lw_attachment_lost),
    ENTRY(lw_attachment_free),
    ENTRY(lw_lease_retire),
    ENTRY(lw_worker_insubstantiate),
    ENTRY(lw_master_shutdown),
    ENTRY(lw_master_free),
};

/* Stops and frees what the callback belongs to. None of it may wait. */
static void end_own(scene *self)
{
    add(&self->has_ended);
    ANY(lw_worker_insubstantiate(self->worker, 0, LW_FOREVER));
    ANY(lw_worker_insubstantiate(self->worker, 1, LW_FOREVER));
    ANY(lw_master_shutdown(self->master, LW_SHUTDOWN_GRACEFUL, LW_FOREVER, NULL));
    ANY(lw_master_shutdown(self->master, LW_SHUTDOWN_FAST, LW_FOREVER, NULL));
    ANY(lw_master_free(self->master));
}

/* Once for each callback; whether this was that once. */
static int call_everything(scene *self, callback from, place *at)
{
    pthread_mutex_lock(&lock);
    int is_first = !self->has_run[from];
    self->has_run[from] = 1;
    pthread_mutex_unlock(&lock);
    if (!is_first) {
        return 0;
    }
    at->own = self;
    at->other = new_twin();
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
        functions[i].call(at);
    }
    free_twin(at->other);
    if (self->ends_in == from) {
        end_own(self);
    }
    add(&self->has_done[from]);
    return 1;
}

/* ------------------------------------------------------------------------------------------------- the callbacks */

#define PLACE(name)                                                                           \
    place name;                                                                               \
    memset(&name, 0, sizeof name)

static int32_t own_command(void *context, const lw_command *command, lw_process *process)
{
    PLACE(at);
    at.process = process;
    call_everything((scene *)context, AGENT_START_COMMAND, &at);
    if (strcmp(command->shell, "stays") != 0) {
        OK(lw_process_end(process, LW_EXIT_CODE, 0));
    }
    return LW_ANSWER_OK;
}

static void own_interrupt(void *context, lw_process *process)
{
    PLACE(at);
    at.process = process;
    call_everything((scene *)context, AGENT_INTERRUPT, &at);
    ANY(lw_process_end(process, LW_EXIT_INTERRUPTED, 0));
}

static void own_close(void *context)
{
    PLACE(at);
    call_everything((scene *)context, AGENT_CLOSE, &at);
}

static void own_agent_release(void *context)
{
    PLACE(at);
    call_everything((scene *)context, AGENT_RELEASE, &at);
}

static void fill_agent_of(scene *self, lw_agent *agent)
{
    agent->context = self;
    agent->start_command = own_command;
    agent->interrupt = own_interrupt;
    agent->close = own_close;
    agent->release = own_agent_release;
}

static int32_t own_start(void *context, lw_start *start, const lw_start_request *request, void **instance)
{
    (void)instance;
    scene *self = (scene *)context;
    PLACE(at);
    at.start = start;
    at.attaches = strcmp(request->worker, "own") == 0;
    if (!call_everything(self, START, &at) && at.attaches) {
        at.own = self;
        call_lw_start_attach(&at);
    }
    return LW_ANSWER_OK;
}

static int32_t own_stop(void *context, lw_stop *call, const lw_stop_request *request)
{
    PLACE(at);
    at.stop = call;
    call_everything((scene *)context, STOP, &at);
    return strcmp(request->worker, "own") == 0 ? LW_ANSWER_FAILED : LW_ANSWER_OK;
}

static int32_t own_check(void *context, void *instance)
{
    (void)instance;
    PLACE(at);
    call_everything((scene *)context, CHECK, &at);
    return LW_ANSWER_FAILED;
}

static int32_t own_compatible(void *context, void *instance, const lw_property *properties, size_t count)
{
    (void)instance, (void)properties, (void)count;
    PLACE(at);
    call_everything((scene *)context, COMPATIBLE, &at);
    return LW_ANSWER_OK;
}

static int32_t own_kind(void *context, const lw_property *properties, size_t count)
{
    (void)properties, (void)count;
    PLACE(at);
    call_everything((scene *)context, KIND, &at);
    return LW_ANSWER_CANNOT;
}

static int32_t own_reclaim(void *context, lw_reclaim *reclaim, const lw_leftover *leftover)
{
    (void)leftover;
    scene *self = (scene *)context;
    PLACE(at);
    at.reclaim = reclaim;
    call_everything(self, RECLAIM, &at);
    add(&self->reclaims);
    return LW_ANSWER_OK;
}

static void own_release(void *context)
{
    scene *self = (scene *)context;
    PLACE(at);
    call_everything(self, RELEASE, &at);
    add(&self->releases);
}

static void own_observer(void *context, const lw_event *event)
{
    (void)event;
    PLACE(at);
    call_everything((scene *)context, OBSERVER, &at);
}

static void own_observer_release(void *context)
{
    scene *self = (scene *)context;
    PLACE(at);
    call_everything(self, OBSERVER_RELEASE, &at);
    add(&self->observer_releases);
}

/* --------------------------------------------------------------------------------------------------- the courses */

static void add_worker(scene *self, const char *name, const char *label, lw_worker **worker)
{
    GROWING(lw_driver, driver);
    driver.context = self;
    driver.start = own_start;
    driver.stop = own_stop;
    driver.check = own_check;
    driver.compatible = own_compatible;
    driver.reclaim = own_reclaim;
    driver.kind = strcmp(name, "of no kind") == 0 ? own_kind : NULL;
    driver.release = own_release;
    GROWING(lw_worker_options, options);
    options.name = name;
    options.labels = &label;
    options.label_count = 1;
    options.check_interval_ms = 1;
    OK(lw_master_add_driver(self->master, &options, &driver, worker));
}

/* The lease of a new build, or NULL when all has ended. */
static lw_lease *take_lease(scene *self, const char *label)
{
    place here = {self, NULL, NULL, NULL, NULL, NULL, 0}, *at = &here;
    GROWING(lw_build, build);
    build.name = "build";
    build.labels = &label;
    build.label_count = 1;
    build.max_attempts = 1;
    lw_ticket *ticket;
    lw_lease *lease = NULL;
    OWN(LW_OK, lw_master_submit(self->master, &build, &ticket));
    if (ticket != NULL) {
        int expected = strcmp(label, "own") == 0     ? LW_OK
                       : strcmp(label, "kinds") == 0 ? LW_ERROR_CANNOT_SUBSTANTIATE
                                                     : LW_ERROR_ATTEMPTS_EXHAUSTED;
        OWN(expected, lw_ticket_wait(ticket, 5 * MINUTE, &lease));
        OK(lw_ticket_free(ticket));
    }
    return lease;
}

static void commands(scene *self)
{
    place here = {self, NULL, NULL, NULL, NULL, NULL, 0}, *at = &here;
    GROWING(lw_command, command);
    command.shell = "ends";
    const lw_finished *finished;
    OWN(LW_OK, lw_lease_run(self->lease, &command, &finished));
    OK(lw_free(finished));
    command.shell = "stays";
    OWN(LW_OK, lw_lease_start(self->lease, &command, &self->running));
    OWN(LW_OK, lw_running_interrupt(self->running));
    ANY(lw_running_free(self->running));
}

static void course(callback ends_in)
{
    scene self;
    memset(&self, 0, sizeof self);
    self.ends_in = ends_in;
    place here = {&self, NULL, NULL, NULL, NULL, NULL, 0}, *at = &here;
    GROWING(lw_master_options, settings);
    settings.drop_timeout_ms = 60 * MINUTE;
    OK(lw_master_new(&settings, &self.master));
    add_worker(&self, "own", "own", &self.worker);
    add_worker(&self, "never attached", "checked", NULL);
    add_worker(&self, "of no kind", "kinds", NULL);
    lw_observer *observer;
    OK(lw_master_observe(self.master, 1000, own_observer, &self, own_observer_release, &observer));

    for (int i = 0; i < 2; i++) { /* whether the instance fits is a question for the second */
        self.lease = take_lease(&self, "own");
        if (self.lease != NULL) {
            commands(&self);
            OK(lw_lease_finish(self.lease, LW_RESULT_SUCCEEDED, NULL));
        }
    }
    MUST(take_lease(&self, "checked") == NULL);
    MUST(take_lease(&self, "kinds") == NULL);
    OWN(LW_OK, lw_worker_insubstantiate(self.worker, 1, 5 * MINUTE));
    await_either(&self.reclaims, 1, &self.has_ended, 1);
    add(&self.has_ended); /* those that are called from now on find the master gone */
    lw_code shut_down = lw_master_shutdown(self.master, LW_SHUTDOWN_FAST, 5 * MINUTE, NULL);
    lw_code freed = lw_master_free(self.master);
    MUST(ends_in != NONE || (shut_down == LW_OK && freed == LW_OK));
    OK(lw_worker_free(self.worker));
    OK(lw_observer_free(observer));
    await(&self.releases, 3);
    await(&self.observer_releases, 1);
    for (int i = 0; i < CALLBACKS; i++) {
        MUST(self.has_done[i] || (ends_in != NONE && i != (int)ends_in));
    }
    await(&twins_gone, look(&twins_made));
    await(&added_releases, look(&added_drivers));
    NOTHING_IS_LEFT();
}

int main(void)
{
    course(NONE);
    for (int i = 0; i < CALLBACKS; i++) {
        course((callback)i);
    }
    puts("reentry: every function from every callback");
    return 0;
}
