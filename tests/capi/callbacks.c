/* Drivers, agents and observers in C: every answer that they can give, and callbacks that call back into the library,
 * whatever the function. */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include "common.h"
#include "counting.h"

/* What a driver of these tests is to do, and what was done. */
typedef struct script {
    lw_master *master;
    int32_t start_answer, stop_answer, check_answer, compatible_answer, reclaim_answer, idle;
    uint64_t retry_after_ms, attached_check_interval_ms;
    const char *reason;
    int attaches, hangs, calls_back, shuts_down, records, stop_hangs;
    int starts, stops, stops_without, fast_stops, checks, compatibles, kinds, reclaims, releases;
    int agent_closes, agent_releases, last_had_key;
    char key[40];
} script;

static int instance_of_nothing;

static void release_script(void *context)
{
    add(&((script *)context)->releases);
}

static void close_agent(void *context)
{
    add(&((script *)context)->agent_closes);
}

static void release_agent(void *context)
{
    add(&((script *)context)->agent_releases);
}

/* What a callback must be able to call in the middle of everything. None of it blocks, though the master is asked to shut
 * down with all the time in the world. */
static void call_everything_that_looks(script *self, const char *worker_name)
{
    const char *json;
    lw_worker *worker;
    lw_events *events;
    const lw_event *event;
    lw_inbox *inbox;
    lw_lease *lease;
    uint64_t number;
    int fd;
    OK(lw_master_status(self->master, &json));
    OK(lw_free(json));
    OK(lw_master_worker(self->master, worker_name, &worker));
    OK(lw_worker_status(worker, &json));
    OK(lw_free(json));
    OK(lw_worker_pause(worker));
    OK(lw_worker_unpause(worker));
    OK(lw_worker_free(worker));
    OK(lw_master_events(self->master, 10, &events));
    OK(lw_events_fd(events, &fd));
    EXPECT(LW_ERROR_ENDED, lw_master_forget_leftover(self->master, "no such key"));
    EXPECT(LW_ERROR_ENDED, lw_master_cancel(self->master, 1u << 30));
    EXPECT(LW_ERROR_ENDED, lw_master_build_status(self->master, 1u << 30, &json));
    EXPECT(LW_ERROR_ENDED, lw_master_address(self->master, &json));

    GROWING(lw_build, build);
    const char *label = "nobody has it";
    build.name = "from a callback";
    build.labels = &label;
    build.label_count = 1;
    lw_ticket *ticket;
    OK(lw_master_submit(self->master, &build, &ticket));
    lw_code code = lw_ticket_wait(ticket, MINUTE, &lease);
    MUST(code == LW_ERROR_NO_WORKER_FITS || code == LW_ERROR_SHUT_DOWN);
    OK(lw_ticket_build(ticket, &number));
    OK(lw_ticket_cancel(ticket));
    OK(lw_ticket_free(ticket));
    OK(lw_inbox_new(&inbox));
    OK(lw_inbox_fd(inbox, &fd));
    OK(lw_master_submit_to(self->master, &build, inbox, &number));
    code = lw_inbox_take(inbox, MINUTE, &number, &lease);
    MUST(code == LW_ERROR_NO_WORKER_FITS || code == LW_ERROR_SHUT_DOWN);
    OK(lw_inbox_free(inbox));
    OK(lw_events_take(events, MINUTE, &event));
    OK(lw_free(event));
    OK(lw_events_free(events));

    lw_master *another = new_master();
    OK(lw_master_free(another));
}

static void *on_another_thread(void *start_)
{
    lw_start *start = (lw_start *)start_;
    bool cancelled;
    OK(lw_start_cancelled(start, &cancelled));
    OK(lw_start_detail(start, "from another thread"));
    OK(lw_start_retry_after(start, 1));
    EXPECT(LW_ERROR_HANDLE, lw_start_sleep(start, MINUTE));
    MUST(contains(lw_last_error_message(), "another thread"));
    EXPECT(LW_ERROR_HANDLE, lw_start_record(start, "id"));
    EXPECT(LW_ERROR_HANDLE, lw_start_progress(start, "text"));
    return NULL;
}

static int32_t start(void *context, lw_start *call, const lw_start_request *request, void **instance)
{
    script *self = (script *)context;
    MUST(request->size == sizeof(lw_start_request));
    MUST(strlen(request->key) == 32 && strlen(request->owner) == 32 && strlen(request->secret) == 64);
    MUST(request->epoch >= 1 && strcmp(request->worker, "c") == 0 && request->agent_address == NULL);
    strcpy(self->key, request->key);
    bool cancelled;
    OK(lw_start_cancelled(call, &cancelled));
    MUST(self->hangs || !cancelled);
    OK(lw_start_sleep(call, 1));
    OK(lw_start_progress(call, "getting there"));
    OK(lw_start_detail(call, "a detail"));
    OK(lw_start_retry_after(call, self->retry_after_ms));
    EXPECT(LW_ERROR_JOURNAL, lw_start_record(call, ""));
    char long_id[4098];
    memset(long_id, 'i', sizeof long_id - 1);
    long_id[sizeof long_id - 1] = '\0';
    EXPECT(LW_ERROR_JOURNAL, lw_start_record(call, long_id));
    if (self->records) {
        OK(lw_start_record(call, request->key));
        OK(lw_start_record(call, "another id"));
    }
    if (self->calls_back) {
        MUST(strcmp(request->build_name, "calls back") == 0 && request->property_count == 2);
        MUST(strcmp(request->properties[0].name, "a") == 0 && strcmp(request->properties[0].value, "1") == 0);
        MUST(strcmp(request->properties[1].name, "b") == 0 && strcmp(request->properties[1].value, "2") == 0);
        call_everything_that_looks(self, request->worker);
        pthread_t thread;
        MUST(pthread_create(&thread, NULL, on_another_thread, call) == 0);
        MUST(pthread_join(thread, NULL) == 0);
        EXPECT(LW_ERROR_HANDLE, lw_reclaim_sleep((lw_reclaim *)call, 1));
    }
    if (self->attaches) {
        GROWING(lw_agent, agent);
        agent.context = self;
        agent.close = close_agent;
        agent.release = release_agent;
        OK(lw_start_attach(call, &agent, NULL));
        /* A second one is refused, and stays the caller's. */
        lw_attachment *attachment = NULL;
        EXPECT(LW_ERROR_ATTACH, lw_start_attach(call, &agent, &attachment));
        MUST(attachment == NULL);
        EXPECT(LW_ERROR_ATTACH, lw_start_attach(call, NULL, NULL));
    }
    add(&self->starts);
    if (self->hangs) {
        EXPECT(LW_ERROR_CANCELLED, lw_start_sleep(call, LW_FOREVER));
        OK(lw_start_cancelled(call, &cancelled));
        MUST(cancelled);
    }
    OK(lw_set_reason(self->reason));
    *instance = &instance_of_nothing;
    return self->start_answer;
}

static void *stop_on_another_thread(void *call_)
{
    lw_stop *call = (lw_stop *)call_;
    bool hurried;
    OK(lw_stop_hurried(call, &hurried));
    EXPECT(hurried ? LW_ERROR_HURRIED : LW_OK, lw_stop_sleep(call, 1));
    return NULL;
}

static int32_t stop(void *context, lw_stop *call, const lw_stop_request *request)
{
    script *self = (script *)context;
    bool hurried;
    OK(lw_stop_hurried(call, &hurried));
    MUST(hurried || !request->fast);
    EXPECT(LW_ERROR_HANDLE, lw_reclaim_sleep((lw_reclaim *)call, 1));
    MUST(request->size == sizeof(lw_stop_request) && strcmp(request->key, self->key) == 0);
    MUST(strlen(request->owner) == 32 && strcmp(request->worker, "c") == 0);
    MUST(request->has_instance == (request->instance == &instance_of_nothing));
    if (self->calls_back) {
        call_everything_that_looks(self, request->worker);
        pthread_t thread;
        MUST(pthread_create(&thread, NULL, stop_on_another_thread, call) == 0);
        MUST(pthread_join(thread, NULL) == 0);
    }
    if (self->shuts_down) {
        EXPECT(LW_ERROR_TIMEOUT, lw_master_shutdown(self->master, LW_SHUTDOWN_GRACEFUL, LW_FOREVER, NULL));
    }
    if (!request->has_instance) {
        add(&self->stops_without);
    }
    if (request->fast) {
        add(&self->fast_stops);
    }
    add(&self->stops);
    if (self->stop_hangs) {
        EXPECT(LW_ERROR_HURRIED, lw_stop_sleep(call, LW_FOREVER));
        OK(lw_stop_hurried(call, &hurried));
        MUST(hurried && !request->fast);
    }
    OK(lw_set_reason(self->stop_answer == LW_ANSWER_OK ? NULL : "it does not want to go"));
    return self->stop_answer;
}

static int32_t check(void *context, void *instance)
{
    script *self = (script *)context;
    MUST(instance == &instance_of_nothing);
    if (self->calls_back) {
        call_everything_that_looks(self, "c");
    }
    add(&self->checks);
    OK(lw_set_reason("it looks bad"));
    return self->check_answer;
}

static int32_t compatible(void *context, void *instance, const lw_property *properties, size_t count)
{
    script *self = (script *)context;
    MUST(instance == &instance_of_nothing);
    MUST(count == 0 || strcmp(properties[0].name, "a") == 0);
    if (self->calls_back) {
        call_everything_that_looks(self, "c");
    }
    add(&self->compatibles);
    return self->compatible_answer;
}

/* The kind is the property b. */
static int32_t kind(void *context, const lw_property *properties, size_t count)
{
    script *self = (script *)context;
    if (self->calls_back) {
        call_everything_that_looks(self, "c");
    }
    add(&self->kinds);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(properties[i].name, "b") == 0) {
            OK(lw_set_kind("taken back"));
            OK(lw_set_kind(properties[i].value));
            return LW_ANSWER_OK;
        }
    }
    OK(lw_set_kind("of no use"));
    OK(lw_set_reason("there is no b"));
    return LW_ANSWER_CANNOT;
}

static int32_t kind_by_properties(void *context, const lw_property *properties, size_t count)
{
    (void)properties, (void)count;
    add(&((script *)context)->kinds);
    return LW_ANSWER_OK;
}

static void *reclaim_on_another_thread(void *call_)
{
    lw_reclaim *call = (lw_reclaim *)call_;
    bool cancelled;
    OK(lw_reclaim_cancelled(call, &cancelled));
    MUST(!cancelled);
    OK(lw_reclaim_sleep(call, 1));
    return NULL;
}

static int32_t reclaim(void *context, lw_reclaim *call, const lw_leftover *leftover)
{
    script *self = (script *)context;
    MUST(leftover->size == sizeof(lw_leftover) && strcmp(leftover->key, self->key) == 0 && leftover->stage == 2);
    MUST(leftover->id_count == 2 && strcmp(leftover->ids[0], self->key) == 0);
    MUST(strcmp(leftover->ids[1], "another id") == 0 && strcmp(leftover->worker, "c") == 0);
    bool cancelled;
    OK(lw_reclaim_cancelled(call, &cancelled));
    MUST(!cancelled);
    OK(lw_reclaim_sleep(call, 1));
    EXPECT(LW_ERROR_HANDLE, lw_start_sleep((lw_start *)call, 1));
    if (self->calls_back) {
        call_everything_that_looks(self, leftover->worker);
        pthread_t thread;
        MUST(pthread_create(&thread, NULL, reclaim_on_another_thread, call) == 0);
        MUST(pthread_join(thread, NULL) == 0);
    }
    add(&self->reclaims);
    OK(lw_set_reason("not yet"));
    return self->reclaim_answer;
}

typedef int32_t (*kind_callback)(void *context, const lw_property *properties, size_t count);

static void begin_with_kinds(script *self, int asks_for_compatibility, kind_callback says)
{
    self->master = new_master();
    GROWING(lw_driver, driver);
    driver.context = self;
    driver.release = release_script;
    driver.start = start;
    driver.stop = stop;
    driver.check = check;
    driver.compatible = asks_for_compatibility ? compatible : NULL;
    driver.reclaim = reclaim;
    driver.kind = says;
    driver.attached_check_interval_ms = self->attached_check_interval_ms;
    GROWING(lw_worker_options, options);
    options.name = "c";
    options.check_interval_ms = 1;
    options.idle = self->idle;
    OK(lw_master_add_driver(self->master, &options, &driver, NULL));
}

static void begin(script *self, int asks_for_compatibility)
{
    begin_with_kinds(self, asks_for_compatibility, NULL);
}

static void end(script *self)
{
    OK(lw_master_shutdown(self->master, LW_SHUTDOWN_FAST, MINUTE, NULL));
    OK(lw_master_free(self->master));
    await(&self->releases, 1);
    MUST(self->starts == self->stops);
    await(&self->agent_releases, self->attaches ? self->starts : 0);
    MUST(look(&self->agent_releases) == (self->attaches ? self->starts : 0));
    NOTHING_IS_LEFT();
}

static lw_ticket *submit_with(script *self, const char *name, const lw_property *properties, size_t count)
{
    GROWING(lw_build, build);
    build.name = name;
    build.properties = properties;
    build.property_count = count;
    build.max_attempts = 1;
    lw_ticket *ticket;
    OK(lw_master_submit(self->master, &build, &ticket));
    return ticket;
}

static lw_ticket *submit_once(script *self, const char *name)
{
    lw_property properties[2] = {{"b", "2"}, {"a", "1"}};
    return submit_with(self, name, properties, 2);
}

#define SCRIPT(name)                                                                          \
    script name;                                                                              \
    memset(&name, 0, sizeof name)

static void every_answer_of_a_start(void)
{
    static const struct {
        int32_t answer;
        int code;
        const char *words;
    } cases[] = {
        {LW_ANSWER_FAILED, LW_ERROR_ATTEMPTS_EXHAUSTED, "because of the test"},
        {LW_ANSWER_CANNOT, LW_ERROR_CANNOT_SUBSTANTIATE, "because of the test"},
        {LW_ANSWER_NO_CAPACITY, LW_ERROR_ATTEMPTS_EXHAUSTED, "because of the test"},
        {LW_ANSWER_NO_QUOTA, LW_ERROR_ATTEMPTS_EXHAUSTED, "because of the test"},
        {LW_ANSWER_THROTTLED, LW_ERROR_ATTEMPTS_EXHAUSTED, "because of the test"},
        {LW_ANSWER_BAD_CREDENTIALS, LW_ERROR_ATTEMPTS_EXHAUSTED, "because of the test"},
        {LW_ANSWER_NO, LW_ERROR_ATTEMPTS_EXHAUSTED, "because of the test"},
        {LW_ANSWER_PENDING, LW_ERROR_ATTEMPTS_EXHAUSTED, "because of the test"},
        {LW_ANSWER_UNSUPPORTED, LW_ERROR_ATTEMPTS_EXHAUSTED, "because of the test"},
        {4711, LW_ERROR_ATTEMPTS_EXHAUSTED, "because of the test"},
        {-1, LW_ERROR_ATTEMPTS_EXHAUSTED, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        SCRIPT(self);
        self.start_answer = cases[i].answer;
        self.reason = cases[i].words;
        self.retry_after_ms = 123456789;
        begin(&self, 0);
        lw_ticket *ticket = submit_once(&self, "fails");
        lw_lease *lease;
        EXPECT(cases[i].code, lw_ticket_wait(ticket, MINUTE, &lease));
        MUST(contains(lw_last_error_message(), cases[i].words != NULL ? cases[i].words : "-1"));
        OK(lw_ticket_free(ticket));
        await(&self.stops, 1);
        const char *json;
        OK(lw_master_status(self.master, &json));
        int is_quarantined = !contains(json, "\"quarantine_ms\":null");
        MUST(is_quarantined == (cases[i].answer != LW_ANSWER_CANNOT));
        /* 34 hours, as the provider asked for, and up to a quarter more. */
        const char *quarantine = strstr(json, "\"quarantine_ms\":");
        MUST(quarantine != NULL);
        unsigned long long length = strtoull(quarantine + strlen("\"quarantine_ms\":"), NULL, 10);
        MUST((length > 123400000 && length <= 154400000) == (cases[i].answer == LW_ANSWER_THROTTLED));
        OK(lw_free(json));
        MUST(self.stops_without == 1);
        end(&self);
    }
}

static void callbacks_that_call_back(void)
{
    SCRIPT(self);
    self.calls_back = 1;
    self.shuts_down = 1;
    self.attaches = 1;
    begin(&self, 1);
    /* The driver is asked about builds with other properties than the one that the start was called for. */
    lw_property properties[3] = {{"b", "2"}, {"a", "1"}, {"c", "3"}};
    for (size_t i = 0; i < 2; i++) {
        lw_ticket *ticket = submit_with(&self, "calls back", properties, 2 + i);
        lw_lease *lease = lease_of(ticket);
        void *context;
        OK(lw_lease_agent(lease, &context));
        MUST(context == &self);
        GROWING(lw_command, command);
        command.shell = "true";
        const lw_finished *finished;
        EXPECT(LW_ERROR_UNSUPPORTED, lw_lease_run(lease, &command, &finished));
        EXPECT(LW_ERROR_UNSUPPORTED, lw_lease_read_file(lease, "path", "/dev/null"));
        OK(lw_lease_finish(lease, LW_RESULT_SUCCEEDED, NULL));
        OK(lw_ticket_free(ticket));
    }
    MUST(look(&self.compatibles) == 1);
    lw_worker *worker;
    OK(lw_master_worker(self.master, "c", &worker));
    OK(lw_worker_insubstantiate(worker, 0, MINUTE));
    OK(lw_worker_free(worker));
    MUST(look(&self.stops) == 1 && look(&self.starts) == 1 && look(&self.fast_stops) == 0);
    MUST(look(&self.agent_closes) == 1);
    end(&self);
}

/* What was made of a master keeps its drivers, and the agent, for as long as it is not freed. */
static void a_driver_is_released_after_tickets_and_leases(void)
{
    SCRIPT(self);
    self.attaches = 1;
    begin(&self, 0);
    lw_ticket *ticket = submit_once(&self, "outlives its master");
    lw_lease *lease = lease_of(ticket);
    OK(lw_master_free(self.master));
    EXPECT(LW_ERROR_LEASE_STOPPED, lw_lease_wait_end(lease, MINUTE));
    await(&self.stops, 1);
    void *context;
    OK(lw_lease_agent(lease, &context));
    MUST(context == &self);
    MUST(look(&self.agent_closes) == 1 && look(&self.agent_releases) == 0 && look(&self.releases) == 0);
    OK(lw_lease_free(lease));
    await(&self.agent_releases, 1);
    MUST(look(&self.releases) == 0);
    OK(lw_ticket_free(ticket));
    await(&self.releases, 1);
    NOTHING_IS_LEFT();
}

static int32_t start_with_address(void *context, lw_start *call, const lw_start_request *request, void **instance)
{
    (void)context, (void)call, (void)instance;
    MUST(strcmp(request->agent_address, "agents.example:9989") == 0);
    OK(lw_set_reason("it was told"));
    return LW_ANSWER_CANNOT;
}

static int32_t stop_with_address(void *context, lw_stop *call, const lw_stop_request *request)
{
    (void)call;
    (void)context;
    MUST(!request->has_instance && request->instance == NULL);
    return LW_ANSWER_OK;
}

static void drivers_are_told_where_agents_connect(void)
{
    GROWING(lw_master_options, settings);
    settings.agent_address = "agents.example:9989";
    lw_master *master;
    OK(lw_master_new(&settings, &master));
    GROWING(lw_driver, driver);
    driver.start = start_with_address;
    driver.stop = stop_with_address;
    GROWING(lw_worker_options, options);
    options.name = "c";
    OK(lw_master_add_driver(master, &options, &driver, NULL));
    lw_ticket *ticket = submit(master, "asks for the address");
    lw_lease *lease;
    EXPECT(LW_ERROR_CANNOT_SUBSTANTIATE, lw_ticket_wait(ticket, MINUTE, &lease));
    MUST(contains(lw_last_error_message(), "it was told"));
    OK(lw_ticket_free(ticket));
    OK(lw_master_free(master));
    NOTHING_IS_LEFT();
}

static void an_instance_that_fits_no_build_is_replaced(int32_t answer, int32_t idle)
{
    SCRIPT(self);
    self.attaches = 1;
    self.idle = idle;
    begin(&self, 1);
    self.compatible_answer = answer;
    for (int i = 0; i < 3; i++) {
        lw_ticket *ticket = submit_once(&self, "picky");
        lw_lease *lease = lease_of(ticket);
        OK(lw_lease_finish(lease, LW_RESULT_SUCCEEDED, NULL));
        OK(lw_ticket_free(ticket));
    }
    await(&self.starts, 3);
    end(&self);
}

static void run_with(script *self, const lw_property *properties, size_t count)
{
    lw_ticket *ticket = submit_with(self, self->calls_back ? "calls back" : "of a kind", properties, count);
    OK(lw_lease_finish(lease_of(ticket), LW_RESULT_SUCCEEDED, NULL));
    OK(lw_ticket_free(ticket));
}

static void builds_of_one_kind_use_one_instance(int calls_back)
{
    const lw_property first[] = {{"a", "1"}, {"b", "2"}}, alike[] = {{"a", "7"}, {"b", "2"}};
    SCRIPT(self);
    self.attaches = 1;
    self.calls_back = calls_back;
    begin_with_kinds(&self, 1, kind);
    for (int i = 0; i < 2; i++) {
        run_with(&self, first, 2);
        run_with(&self, alike, 2);
    }
    await(&self.starts, 1); /* the builds run as soon as the agent has attached */
    MUST(look(&self.starts) == 1 && look(&self.kinds) == 2 && look(&self.compatibles) == 0);
    end(&self);
}

static void builds_of_another_kind_and_of_none(void)
{
    const lw_property one[] = {{"b", "2"}}, other[] = {{"b", "3"}};
    SCRIPT(self);
    self.attaches = 1;
    begin_with_kinds(&self, 0, kind);
    run_with(&self, one, 1);
    run_with(&self, other, 1);
    await(&self.starts, 2);
    MUST(look(&self.starts) == 2 && look(&self.stops) == 1 && look(&self.kinds) == 2);

    lw_ticket *ticket = submit_with(&self, "of no kind", NULL, 0);
    lw_lease *lease;
    EXPECT(LW_ERROR_CANNOT_SUBSTANTIATE, lw_ticket_wait(ticket, MINUTE, &lease));
    MUST(contains(lw_last_error_message(), "there is no b"));
    OK(lw_ticket_free(ticket));
    MUST(look(&self.starts) == 2);
    end(&self);
}

static void a_driver_that_names_no_kind_has_one_for_all_properties(void)
{
    const lw_property first[] = {{"a", "1"}, {"b", "2"}}, other[] = {{"a", "7"}, {"b", "2"}};
    SCRIPT(self);
    self.attaches = 1;
    begin_with_kinds(&self, 0, kind_by_properties);
    run_with(&self, first, 2);
    run_with(&self, first, 2);
    await(&self.starts, 1);
    MUST(look(&self.starts) == 1);
    run_with(&self, other, 2);
    await(&self.starts, 2);
    MUST(look(&self.starts) == 2 && look(&self.kinds) == 2);
    end(&self);
}

/* One after the other: all the same one, or each its own. */
static void every_build_has_an_instance(int32_t idle, uint64_t last_epoch)
{
    SCRIPT(self);
    self.attaches = 1;
    self.idle = idle;
    begin(&self, 0);
    uint64_t epoch = 0;
    for (int i = 0; i < 3; i++) {
        lw_ticket *ticket = submit_once(&self, "next");
        lw_lease *lease = lease_of(ticket);
        const lw_lease_info *info;
        OK(lw_lease_get_info(lease, &info));
        epoch = info->epoch;
        OK(lw_free(info));
        OK(lw_lease_finish(lease, LW_RESULT_SUCCEEDED, NULL));
        OK(lw_ticket_free(ticket));
    }
    MUST(epoch == last_epoch);
    end(&self);
}

static void a_shutdown_says_whether_it_is_fast(int mode)
{
    SCRIPT(self);
    self.attaches = 1;
    begin(&self, 0);
    lw_ticket *ticket = submit_once(&self, "done");
    OK(lw_lease_finish(lease_of(ticket), LW_RESULT_SUCCEEDED, NULL));
    OK(lw_ticket_free(ticket));
    OK(lw_master_shutdown(self.master, mode, MINUTE, NULL));
    MUST(look(&self.stops) == 1 && look(&self.fast_stops) == (mode == LW_SHUTDOWN_FAST));
    end(&self);
}

static void a_bad_check(void)
{
    SCRIPT(self);
    self.check_answer = LW_ANSWER_FAILED;
    self.calls_back = 1;
    self.shuts_down = 1;
    begin(&self, 0);
    lw_ticket *ticket = submit_once(&self, "calls back");
    lw_lease *lease;
    EXPECT(LW_ERROR_ATTEMPTS_EXHAUSTED, lw_ticket_wait(ticket, MINUTE, &lease));
    MUST(contains(lw_last_error_message(), "it looks bad"));
    OK(lw_ticket_free(ticket));
    await(&self.stops, 1);
    end(&self);
}

static void a_bad_check_after_the_attach(void)
{
    SCRIPT(self);
    self.attaches = 1;
    self.check_answer = LW_ANSWER_FAILED;
    self.attached_check_interval_ms = 1000;
    begin(&self, 0);
    lw_ticket *ticket = submit_once(&self, "done in time");
    OK(lw_lease_finish(lease_of(ticket), LW_RESULT_SUCCEEDED, NULL));
    OK(lw_ticket_free(ticket));
    await(&self.stops, 1); /* not for want of work: that would take ten minutes */
    MUST(look(&self.checks) == 1);
    end(&self);
}

static void a_start_that_hangs_is_cancelled(void)
{
    SCRIPT(self);
    self.hangs = 1;
    self.start_answer = LW_ANSWER_FAILED;
    begin(&self, 0);
    lw_ticket *ticket = submit_once(&self, "impatient");
    await(&self.starts, 1);
    OK(lw_ticket_cancel(ticket));
    lw_lease *lease;
    EXPECT(LW_ERROR_CANCELLED, lw_ticket_wait(ticket, MINUTE, &lease));
    OK(lw_ticket_free(ticket));
    await(&self.stops, 1);
    end(&self);
}

static void a_stop_that_hangs_is_hurried(void)
{
    SCRIPT(self);
    self.attaches = 1;
    self.stop_hangs = 1;
    begin(&self, 0);
    lw_ticket *ticket = submit_once(&self, "done in time");
    OK(lw_lease_finish(lease_of(ticket), LW_RESULT_SUCCEEDED, NULL));
    OK(lw_ticket_free(ticket));
    lw_worker *worker;
    OK(lw_master_worker(self.master, "c", &worker));
    EXPECT(LW_ERROR_TIMEOUT, lw_worker_insubstantiate(worker, 0, 0));
    await(&self.stops, 1);
    OK(lw_worker_insubstantiate(worker, 1, MINUTE));
    OK(lw_worker_free(worker));
    end(&self);
}

static void a_stop_that_fails_is_reclaimed(int32_t answer, const char *next)
{
    SCRIPT(self);
    self.attaches = 1;
    self.records = 1;
    self.calls_back = 1;
    self.stop_answer = LW_ANSWER_FAILED;
    self.reclaim_answer = answer;
    begin(&self, 0);
    lw_events *events;
    OK(lw_master_events(self.master, 1000, &events));
    lw_ticket *ticket = submit_once(&self, "calls back");
    lw_lease *lease = lease_of(ticket);
    OK(lw_lease_finish(lease, LW_RESULT_SUCCEEDED, NULL));
    OK(lw_ticket_free(ticket));
    lw_worker *worker;
    OK(lw_master_worker(self.master, "c", &worker));
    OK(lw_worker_insubstantiate(worker, 1, MINUTE));
    OK(lw_worker_free(worker));
    MUST(look(&self.fast_stops) == 1);
    const lw_event *event;
    int is_reclaimed = 0;
    while (!is_reclaimed) {
        OK(lw_events_take(events, MINUTE, &event));
        is_reclaimed = strcmp(event->kind, "reclaim_returned") == 0;
        OK(lw_free(event));
    }
    OK(lw_events_free(events));
    const char *json;
    OK(lw_master_status(self.master, &json));
    MUST(contains(json, next));
    OK(lw_free(json));
    lw_code code = lw_master_forget_leftover(self.master, self.key);
    MUST(code == (answer == LW_ANSWER_OK ? LW_ERROR_ENDED : LW_OK));
    end(&self);
}

/* An agent that is lost takes the lease with it, whichever way that is said. */
typedef struct lost {
    lw_attachment *attachment;
    int starts, stops;
} lost;

static int32_t start_with_attachment(void *context, lw_start *call, const lw_start_request *request, void **instance)
{
    (void)request, (void)instance;
    OK(lw_start_attach(call, NULL, &((lost *)context)->attachment));
    add(&((lost *)context)->starts);
    return LW_ANSWER_OK;
}

static int32_t stop_attachment(void *context, lw_stop *call, const lw_stop_request *request)
{
    (void)call;
    MUST(request->has_instance && request->instance == NULL);
    add(&((lost *)context)->stops);
    return LW_ANSWER_OK;
}

static lw_worker *add_losing(lw_master *master, lost *self, int32_t idle)
{
    GROWING(lw_driver, driver);
    driver.context = self;
    driver.start = start_with_attachment;
    driver.stop = stop_attachment;
    GROWING(lw_worker_options, options);
    options.name = "c";
    options.idle = idle;
    lw_worker *worker;
    OK(lw_master_add_driver(master, &options, &driver, &worker));
    return worker;
}

static void an_agent_that_is_lost(int is_freed)
{
    lost self;
    memset(&self, 0, sizeof self);
    lw_master *master = new_master();
    OK(lw_worker_free(add_losing(master, &self, LW_IDLE_AFTER)));
    lw_ticket *ticket = submit(master, "loses its agent");
    lw_lease *lease = lease_of(ticket);
    void *context;
    EXPECT(LW_ERROR_UNSUPPORTED, lw_lease_agent(lease, &context));
    await(&self.starts, 1); /* the lease may be there before the start has heard of the attachment */
    if (is_freed) {
        OK(lw_attachment_free(self.attachment));
    } else {
        OK(lw_attachment_lost(self.attachment, "pulled the plug"));
    }
    EXPECT(LW_ERROR_HANDLE, lw_attachment_free(self.attachment));
    EXPECT(LW_ERROR_LEASE_LOST, lw_lease_wait_end(lease, MINUTE));
    MUST(contains(lw_last_error_message(), is_freed ? "the agent is gone" : "pulled the plug"));
    OK(lw_lease_free(lease));
    OK(lw_ticket_free(ticket));
    OK(lw_master_shutdown(master, LW_SHUTDOWN_FAST, MINUTE, NULL));
    OK(lw_master_free(master));
    MUST(look(&self.stops) == 1);
    NOTHING_IS_LEFT();
}

/* One that nobody uses is waited for, when its worker is never stopped for want of work. */
static void an_idle_agent_that_is_lost_may_come_back(void)
{
    lost self;
    memset(&self, 0, sizeof self);
    lw_master *master = new_master();
    lw_worker *worker = add_losing(master, &self, LW_IDLE_NEVER);
    lw_ticket *ticket = submit(master, "is over");
    OK(lw_lease_finish(lease_of(ticket), LW_RESULT_SUCCEEDED, NULL));
    OK(lw_ticket_free(ticket));
    await(&self.starts, 1);
    OK(lw_attachment_lost(self.attachment, NULL));
    const char *json;
    int is_up = 0;
    for (int i = 0; i < 6000 && !is_up; i++) {
        SLEEP_10_MS(); /* the callback is about to return */
        OK(lw_worker_status(worker, &json));
        is_up = contains(json, "\"state\":\"substantiated\"") && contains(json, "\"attached\":false");
        OK(lw_free(json));
    }
    MUST(is_up);
    MUST(look(&self.stops) == 0);
    OK(lw_worker_insubstantiate(worker, 0, MINUTE));
    MUST(look(&self.stops) == 1);
    OK(lw_worker_free(worker));
    OK(lw_master_free(master));
    NOTHING_IS_LEFT();
}

/* A driver that frees its own master, in its stop; whoever uses the master then finds it gone. */
static int32_t stop_and_free(void *context, lw_stop *call, const lw_stop_request *request)
{
    (void)call;
    (void)request;
    lost *self = (lost *)context;
    OK(lw_master_free((lw_master *)(void *)self->attachment));
    add(&self->stops);
    return LW_ANSWER_OK;
}

static void *attach_on_another_thread(void *call)
{
    OK(lw_start_attach((lw_start *)call, NULL, NULL));
    return NULL;
}

static int32_t start_attached(void *context, lw_start *call, const lw_start_request *request, void **instance)
{
    (void)context, (void)request, (void)instance;
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, attach_on_another_thread, call) == 0);
    MUST(pthread_join(thread, NULL) == 0);
    return LW_ANSWER_OK;
}

static void a_master_that_is_freed_in_a_callback(void)
{
    lost self;
    memset(&self, 0, sizeof self);
    lw_master *master = new_master();
    self.attachment = (lw_attachment *)(void *)master;
    GROWING(lw_driver, driver);
    driver.context = &self;
    driver.start = start_attached;
    driver.stop = stop_and_free;
    GROWING(lw_worker_options, options);
    options.name = "c";
    options.idle = LW_IDLE_AFTER_BUILD;
    OK(lw_master_add_driver(master, &options, &driver, NULL));
    lw_ticket *ticket = submit(master, "the last one");
    OK(lw_lease_finish(lease_of(ticket), LW_RESULT_SUCCEEDED, NULL));
    await(&self.stops, 1);
    const char *json;
    EXPECT(LW_ERROR_HANDLE, lw_master_status(master, &json));
    OK(lw_ticket_free(ticket));
    NOTHING_IS_LEFT();
}

/* Events by callback: all of them, in order, with calls back; and an observer that is too slow misses some. */
typedef struct watcher {
    lw_master *master;
    lw_observer *observer;
    int events, releases, is_open, calls_back;
    uint64_t next, missed;
} watcher;

static void watch(void *context, const lw_event *event)
{
    watcher *self = (watcher *)context;
    MUST(event->size == sizeof(lw_event));
    MUST(event->sequence == self->next + event->missed);
    self->next = event->sequence + 1;
    self->missed += event->missed;
    if (self->calls_back && contains(event->text, "build queued")) {
        const char *json;
        OK(lw_master_status(self->master, &json));
        OK(lw_free(json));
        EXPECT(LW_ERROR_HANDLE, lw_free(event)); /* it is not the callback's to free */
    }
    add(&self->events);
    await(&self->is_open, 1);
}

static void release_watcher(void *context)
{
    add(&((watcher *)context)->releases);
}

static void observers(void)
{
    watcher self;
    memset(&self, 0, sizeof self);
    self.master = new_master();
    self.calls_back = 1;
    self.is_open = 1;
    OK(lw_master_observe(self.master, 1000, watch, &self, release_watcher, &self.observer));
    for (int i = 0; i < 10; i++) {
        OK(lw_ticket_free(submit(self.master, "nobody takes it")));
    }
    await(&self.events, 20);
    OK(lw_observer_free(self.observer));
    await(&self.releases, 1);
    MUST(self.missed == 0);

    /* Two lie in the queue while the first is held; the others are missed. */
    watcher slow;
    memset(&slow, 0, sizeof slow);
    slow.next = 20;
    OK(lw_master_observe(self.master, 2, watch, &slow, release_watcher, &slow.observer));
    OK(lw_ticket_free(submit(self.master, "first")));
    await(&slow.events, 1);
    for (int i = 0; i < 10; i++) {
        OK(lw_ticket_free(submit(self.master, "too many")));
    }
    add(&slow.is_open);
    await(&slow.events, 3);
    OK(lw_ticket_free(submit(self.master, "last")));
    await(&slow.events, 4);
    MUST(slow.missed == 19);
    /* It ends by itself with its master. */
    OK(lw_master_free(self.master));
    await(&slow.releases, 1);
    OK(lw_observer_free(slow.observer));
    NOTHING_IS_LEFT();
}

/* An agent that runs commands, each on a thread of its own: "say N" writes N bytes, "hang" waits for its interrupt, and
 * the others are answered at once. */
typedef struct shell {
    int starts, ends, cut_short, written, interrupts, releases;
    int is_interrupted;
} shell;

typedef struct job {
    shell *owner;
    lw_process *process;
    long bytes;
} job;

static void *run_job(void *job_)
{
    job *self = (job *)job_;
    static uint8_t data[300000];
    lw_code code = LW_OK;
    if (self->bytes >= 0) {
        for (long left = self->bytes; left > 0 && code == LW_OK;) {
            size_t piece = left < (long)sizeof data ? (size_t)left : sizeof data;
            code = lw_process_write(self->process, LW_STREAM_OUT, data, piece);
            left -= (long)piece;
            if (code == LW_OK) {
                add(&self->owner->written);
            }
        }
        MUST(code == LW_OK || code == LW_ERROR_CANCELLED || code == LW_ERROR_ENDED);
    } else {
        await(&self->owner->is_interrupted, 1);
        EXPECT(LW_ERROR_CANCELLED, lw_process_write(self->process, LW_STREAM_OUT, data, 1));
        code = LW_ERROR_CANCELLED;
    }
    OK(lw_process_end(self->process, code == LW_OK ? LW_EXIT_CODE : LW_EXIT_INTERRUPTED, 7));
    EXPECT(LW_ERROR_HANDLE, lw_process_write(self->process, LW_STREAM_OUT, data, 1));
    EXPECT(LW_ERROR_HANDLE, lw_process_end(self->process, LW_EXIT_CODE, 0));
    if (code != LW_OK) {
        add(&self->owner->cut_short);
    }
    add(&self->owner->ends);
    free(self);
    return NULL;
}

static int32_t start_command(void *context, const lw_command *command, lw_process *process)
{
    shell *self = (shell *)context;
    add(&self->starts);
    MUST(command->size == sizeof(lw_command));
    MUST((command->shell == NULL) == (command->arguments != NULL));
    MUST(command->argument_count == 0 || command->shell == NULL);
    if (command->shell == NULL) {
        MUST(command->argument_count == 2 && strcmp(command->arguments[0], "look") == 0);
        MUST(strcmp(command->arguments[1], "at all") == 0 && strcmp(command->directory, "some/where") == 0);
        MUST(command->environment_count == 2 && strcmp(command->environment[0].name, "A") == 0);
        MUST(strcmp(command->environment[0].value, "1") == 0 && command->environment[1].value == NULL);
        MUST(command->input_length == 3 && memcmp(command->input, "in\0", 3) == 0);
        MUST(command->time_limit_ms == 60001 && command->silence_limit_ms == 60002);
        /* To its end before the call returns; and a call within a callback keeps the reasons apart. */
        OK(lw_process_write(process, LW_STREAM_OUT, (const uint8_t *)"out", 3));
        OK(lw_process_write(process, LW_STREAM_ERR, (const uint8_t *)"err", 3));
        OK(lw_process_write(process, LW_STREAM_OUT, NULL, 0));
        EXPECT(LW_ERROR_ARGUMENT, lw_process_write(process, LW_STREAM_END, (const uint8_t *)"x", 1));
        EXPECT(LW_ERROR_ARGUMENT, lw_process_write(process, LW_STREAM_OUT, NULL, 1));
        EXPECT(LW_ERROR_ARGUMENT, lw_process_write(process, LW_STREAM_OUT, (const uint8_t *)"x", SIZE_MAX));
        EXPECT(LW_ERROR_ARGUMENT, lw_process_end(process, 5, 0));
        OK(lw_process_end(process, LW_EXIT_SIGNAL, 9));
        return LW_ANSWER_OK;
    }
    if (strcmp(command->shell, "refuse") == 0) {
        OK(lw_set_reason("out of order"));
        return LW_ANSWER_FAILED;
    }
    if (strcmp(command->shell, "unsupported") == 0) {
        return LW_ANSWER_UNSUPPORTED;
    }
    if (strcmp(command->shell, "fail") == 0) {
        EXPECT(LW_ERROR_ARGUMENT, lw_process_fail(process, "caf\xe9 \xff"));
        OK(lw_process_fail(process, "lost track"));
        EXPECT(LW_ERROR_HANDLE, lw_process_fail(process, NULL));
        return LW_ANSWER_OK;
    }
    job *made = (job *)malloc(sizeof *made);
    made->owner = self;
    made->process = process;
    made->bytes = strcmp(command->shell, "hang") == 0 ? -1 : atol(command->shell + 4);
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, run_job, made) == 0);
    MUST(pthread_detach(thread) == 0);
    return LW_ANSWER_OK;
}

static void interrupt(void *context, lw_process *process)
{
    shell *self = (shell *)context;
    MUST(process != NULL);
    add(&self->interrupts);
    add(&self->is_interrupted);
}

static void release_shell(void *context)
{
    add(&((shell *)context)->releases);
}

static int32_t start_shell(void *context, lw_start *call, const lw_start_request *request, void **instance)
{
    (void)request, (void)instance;
    GROWING(lw_agent, agent);
    agent.context = context;
    agent.release = release_shell;
    agent.start_command = start_command;
    agent.interrupt = interrupt;
    OK(lw_start_attach(call, &agent, NULL));
    return LW_ANSWER_OK;
}

static int32_t stop_shell(void *context, lw_stop *call, const lw_stop_request *request)
{
    (void)call;
    (void)context, (void)request;
    return LW_ANSWER_OK;
}

static void an_agent_that_runs_commands(void)
{
    shell self;
    memset(&self, 0, sizeof self);
    lw_master *master = new_master();
    GROWING(lw_driver, driver);
    driver.context = &self;
    driver.start = start_shell;
    driver.stop = stop_shell;
    GROWING(lw_worker_options, options);
    options.name = "c";
    OK(lw_master_add_driver(master, &options, &driver, NULL));
    lw_ticket *ticket = submit(master, "runs commands");
    lw_lease *lease = lease_of(ticket);
    const lw_finished *finished;

    GROWING(lw_command, look_);
    const char *arguments[] = {"look", "at all"};
    lw_property environment[] = {{"B", NULL}, {"A", "1"}};
    look_.arguments = arguments;
    look_.argument_count = 2;
    look_.directory = "some/where";
    look_.environment = environment;
    look_.environment_count = 2;
    look_.input = (const uint8_t *)"in\0";
    look_.input_length = 3;
    look_.time_limit_ms = 60001;
    look_.silence_limit_ms = 60002;
    OK(lw_lease_run(lease, &look_, &finished));
    MUST(finished->exit == LW_EXIT_SIGNAL && finished->code == 9);
    MUST(finished->out_length == 3 && memcmp(finished->out, "out", 3) == 0);
    MUST(finished->err_length == 3 && memcmp(finished->err, "err", 3) == 0);
    OK(lw_free(finished));

    /* Far more than there is room for: who writes waits for who reads. */
    GROWING(lw_command, command);
    command.shell = "say 20000000";
    command.keep_output = 1000;
    OK(lw_lease_run(lease, &command, &finished));
    MUST(finished->exit == LW_EXIT_CODE && finished->code == 7);
    MUST(finished->out_length == 1000 && finished->dropped == 20000000 - 1000);
    OK(lw_free(finished));

    command.shell = "refuse";
    EXPECT(LW_ERROR_COMMAND, lw_lease_run(lease, &command, &finished));
    MUST(contains(lw_last_error_message(), "out of order"));
    command.shell = "unsupported";
    EXPECT(LW_ERROR_UNSUPPORTED, lw_lease_run(lease, &command, &finished));
    command.shell = "fail";
    EXPECT(LW_ERROR_COMMAND, lw_lease_run(lease, &command, &finished));
    MUST(contains(lw_last_error_message(), "lost track"));

    /* Interrupted, while it hangs and while its output waits for a reader. */
    lw_running *running;
    GROWING(lw_output, output);
    uint8_t buffer[4096];
    command.shell = "hang";
    OK(lw_lease_start(lease, &command, &running));
    EXPECT(LW_ERROR_TIMEOUT, lw_running_read(running, 1, buffer, sizeof buffer, &output));
    OK(lw_running_interrupt(running));
    OK(lw_running_read(running, MINUTE, buffer, sizeof buffer, &output));
    MUST(output.stream == LW_STREAM_END && output.exit == LW_EXIT_INTERRUPTED);
    OK(lw_running_free(running));
    command.shell = "say 20000000";
    int written = look(&self.written);
    OK(lw_lease_start(lease, &command, &running));
    await(&self.written, written + 3); /* the fourth write has no room */
    OK(lw_running_read(running, MINUTE, buffer, sizeof buffer, &output));
    MUST(output.stream == LW_STREAM_OUT && output.length == sizeof buffer);
    OK(lw_running_interrupt(running));
    await(&self.ends, 3);
    MUST(look(&self.written) == written + 3);
    OK(lw_running_free(running));

    /* Left alone by its lease. */
    command.shell = "say 20000000";
    OK(lw_lease_start(lease, &command, &running));
    OK(lw_lease_finish(lease, LW_RESULT_SUCCEEDED, NULL));
    EXPECT(LW_ERROR_HANDLE, lw_running_free(running));
    await(&self.ends, 4);
    MUST(look(&self.cut_short) == 3);
    MUST(look(&self.interrupts) >= 1); /* what has ended before needs none */

    OK(lw_ticket_free(ticket));
    OK(lw_master_shutdown(master, LW_SHUTDOWN_GRACEFUL, MINUTE, NULL));
    OK(lw_master_free(master));
    await(&self.releases, 1);
    NOTHING_IS_LEFT();
}

/* The handle of a start is of no use to the start of another worker, which runs at the same time. */
typedef struct pair {
    lw_start *calls[2];
    int starts, done;
} pair;

static int32_t start_of_pair(void *context, lw_start *call, const lw_start_request *request, void **instance)
{
    (void)instance;
    pair *self = (pair *)context;
    int number = strcmp(request->worker, "second") == 0;
    self->calls[number] = call;
    add(&self->starts);
    await(&self->starts, 2);
    EXPECT(LW_ERROR_HANDLE, lw_start_progress(self->calls[!number], "not mine"));
    OK(lw_start_progress(call, "mine"));
    add(&self->done);
    await(&self->done, 2);
    return LW_ANSWER_CANNOT;
}

static void starts_at_the_same_time(void)
{
    pair self;
    memset(&self, 0, sizeof self);
    lw_master *master = new_master();
    GROWING(lw_driver, driver);
    driver.context = &self;
    driver.start = start_of_pair;
    driver.stop = stop_shell;
    static const char *const names[] = {"first", "second"};
    lw_ticket *tickets[2];
    for (int i = 0; i < 2; i++) {
        GROWING(lw_worker_options, options);
        options.name = names[i];
        OK(lw_master_add_driver(master, &options, &driver, NULL));
        tickets[i] = submit(master, names[i]);
    }
    for (int i = 0; i < 2; i++) {
        lw_lease *lease;
        EXPECT(LW_ERROR_CANNOT_SUBSTANTIATE, lw_ticket_wait(tickets[i], MINUTE, &lease));
        OK(lw_ticket_free(tickets[i]));
    }
    OK(lw_master_shutdown(master, LW_SHUTDOWN_FAST, MINUTE, NULL));
    OK(lw_master_free(master));
    NOTHING_IS_LEFT();
}

/* Many threads, one master, and handles that are freed while others use them. */
static void *hammer(void *context)
{
    script *self = (script *)context;
    for (int i = 0; i < 100; i++) {
        lw_ticket *ticket = submit(self->master, "hammer");
        lw_lease *lease;
        const char *json;
        OK(lw_master_status(self->master, &json));
        OK(lw_free(json));
        switch (i % 4) {
        case 0:
            OK(lw_lease_finish(lease_of(ticket), LW_RESULT_SUCCEEDED, NULL));
            break;
        case 1:
            OK(lw_lease_free(lease_of(ticket)));
            break;
        case 2:
            OK(lw_ticket_cancel(ticket));
            break;
        default:
            if (lw_ticket_wait(ticket, 0, &lease) == LW_OK) {
                OK(lw_lease_retry(lease, "again"));
            }
        }
        OK(lw_ticket_free(ticket));
    }
    return NULL;
}

/* What the wait of a thread came to. */
typedef struct wait {
    lw_ticket *ticket;
    lw_code code;
    int begins;
} wait;

static void *wait_for_a_lease(void *wait_)
{
    wait *self = (wait *)wait_;
    lw_lease *lease;
    add(&self->begins);
    self->code = lw_ticket_wait(self->ticket, LW_FOREVER, &lease);
    MUST(lease == NULL);
    return NULL;
}

/* A ticket that is cancelled and freed while another thread waits on it: that goes on to its end, and says so. Whether
 * the thread waits already cannot be seen, but afterwards: the handle was none for one that came too late. */
static void a_ticket_that_is_freed_while_it_is_waited_for(lw_master *master)
{
    wait self;
    int tries = 0;
    do {
        MUST(++tries <= 1000);
        self.ticket = submit(master, "waits");
        self.begins = 0;
        pthread_t waiter;
        MUST(pthread_create(&waiter, NULL, wait_for_a_lease, &self) == 0);
        await(&self.begins, 1);
        for (int i = 0; i < tries; i++) {
            sched_yield();
        }
        OK(lw_ticket_cancel(self.ticket));
        OK(lw_ticket_free(self.ticket));
        MUST(pthread_join(waiter, NULL) == 0);
    } while (self.code == LW_ERROR_HANDLE);
    MUST(self.code == LW_ERROR_CANCELLED);
}

static void threads(void)
{
    SCRIPT(self);
    self.attaches = 1;
    begin(&self, 0);
    pthread_t hammers[4];
    for (int i = 0; i < 4; i++) {
        MUST(pthread_create(&hammers[i], NULL, hammer, &self) == 0);
    }
    for (int i = 0; i < 4; i++) {
        MUST(pthread_join(hammers[i], NULL) == 0);
    }
    lw_worker *worker;
    OK(lw_master_worker(self.master, "c", &worker));
    OK(lw_worker_pause(worker));
    OK(lw_worker_free(worker));
    a_ticket_that_is_freed_while_it_is_waited_for(self.master);
    end(&self);
}

int main(void)
{
    every_answer_of_a_start();
    callbacks_that_call_back();
    a_driver_is_released_after_tickets_and_leases();
    drivers_are_told_where_agents_connect();
    an_instance_that_fits_no_build_is_replaced(LW_ANSWER_NO, LW_IDLE_AFTER);
    an_instance_that_fits_no_build_is_replaced(LW_ANSWER_FAILED, LW_IDLE_NEVER);
    builds_of_one_kind_use_one_instance(0);
    builds_of_one_kind_use_one_instance(1);
    builds_of_another_kind_and_of_none();
    a_driver_that_names_no_kind_has_one_for_all_properties();
    every_build_has_an_instance(LW_IDLE_NEVER, 1);
    every_build_has_an_instance(LW_IDLE_AFTER_BUILD, 3);
    a_shutdown_says_whether_it_is_fast(LW_SHUTDOWN_GRACEFUL);
    a_shutdown_says_whether_it_is_fast(LW_SHUTDOWN_FAST);
    a_bad_check();
    a_bad_check_after_the_attach();
    a_start_that_hangs_is_cancelled();
    a_stop_that_hangs_is_hurried();
    a_stop_that_fails_is_reclaimed(LW_ANSWER_OK, "\"leftovers\":[]");
    a_stop_that_fails_is_reclaimed(LW_ANSWER_PENDING, "\"next\":\"reclaim\"");
    a_stop_that_fails_is_reclaimed(LW_ANSWER_UNSUPPORTED, "\"next\":\"unsupported\"");
    a_stop_that_fails_is_reclaimed(LW_ANSWER_FAILED, "not yet");
    an_agent_that_runs_commands();
    starts_at_the_same_time();
    an_agent_that_is_lost(0);
    an_agent_that_is_lost(1);
    an_idle_agent_that_is_lost_may_come_back();
    a_master_that_is_freed_in_a_callback();
    observers();
    threads();
    puts("callbacks: all as it should be");
    return 0;
}
