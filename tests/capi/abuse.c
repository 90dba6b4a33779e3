/* Every function with what nobody should pass: NULL, handles that were freed, that are of another kind, that were never
 * given out; bad UTF-8; lengths of zero and lengths that cannot be; numbers that are no choice. Nothing may crash, hang or
 * leak, and each call must say that it was wrong. */
#include "common.h"

static const char *const bad_text = "caf\xe9 \xff\xfe";
static const size_t huge[] = {SIZE_MAX, SIZE_MAX / 2, SIZE_MAX / sizeof(void *), (size_t)1 << 40, 65537};
#define HUGE_COUNT (sizeof huge / sizeof huge[0])

static int32_t never_started(void *context, lw_start *start, const lw_start_request *request, void **instance)
{
    (void)context, (void)start, (void)request, (void)instance;
    MUST(!"nothing is ever started here");
    return LW_ANSWER_FAILED;
}

static int32_t never_stopped(void *context, const lw_stop_request *request)
{
    (void)context, (void)request;
    MUST(!"nothing is ever stopped here");
    return LW_ANSWER_FAILED;
}

static void never_called(void *context, const lw_event *event)
{
    (void)context, (void)event;
    MUST(!"nothing ever happens here");
}

static void never_released(void *context)
{
    (void)context;
    MUST(!"a call that failed releases nothing");
}

/* Every function that takes a handle, with `handle` in its place and all else in order. It must be refused as such. */
static void as_master(void *handle)
{
    lw_master *master = (lw_master *)handle;
    GROWING(lw_build, build);
    build.name = "build";
    GROWING(lw_worker_options, options);
    options.name = "worker";
    GROWING(lw_driver, driver);
    driver.start = never_started;
    driver.stop = never_stopped;
    driver.release = never_released;
    lw_inbox *inbox;
    lw_ticket *ticket;
    lw_worker *worker;
    lw_events *events;
    lw_observer *observer;
    const char *text;
    const lw_report *report;
    uint64_t number;
    OK(lw_inbox_new(&inbox));
    EXPECT(LW_ERROR_HANDLE, lw_master_submit(master, &build, &ticket));
    MUST(ticket == NULL);
    EXPECT(LW_ERROR_HANDLE, lw_master_submit_to(master, &build, inbox, &number));
    MUST(number == 0);
    EXPECT(LW_ERROR_HANDLE, lw_master_add_driver(master, &options, &driver, &worker));
    MUST(worker == NULL);
    EXPECT(LW_ERROR_HANDLE, lw_master_add_local(master, &options, NULL, &worker));
    lw_code code = lw_master_add_command(master, &options, NULL, &worker);
    MUST(code == LW_ERROR_HANDLE || code == LW_ERROR_UNSUPPORTED);
    code = lw_master_add_process(master, &options, NULL, &worker);
    MUST(code == LW_ERROR_HANDLE || code == LW_ERROR_UNSUPPORTED);
    code = lw_master_add_docker(master, &options, "{}", &worker);
    MUST(code == LW_ERROR_HANDLE || code == LW_ERROR_UNSUPPORTED);
    code = lw_master_add_ec2(master, &options, "{}", &worker);
    MUST(code == LW_ERROR_HANDLE || code == LW_ERROR_UNSUPPORTED);
    EXPECT(LW_ERROR_HANDLE, lw_master_worker(master, "worker", &worker));
    EXPECT(LW_ERROR_HANDLE, lw_master_address(master, &text));
    EXPECT(LW_ERROR_HANDLE, lw_master_status(master, &text));
    MUST(text == NULL);
    EXPECT(LW_ERROR_HANDLE, lw_master_build_status(master, 1, &text));
    EXPECT(LW_ERROR_HANDLE, lw_master_forget_leftover(master, "key"));
    EXPECT(LW_ERROR_HANDLE, lw_master_cancel(master, 1));
    EXPECT(LW_ERROR_HANDLE, lw_master_events(master, 1, &events));
    EXPECT(LW_ERROR_HANDLE, lw_master_observe(master, 1, never_called, NULL, never_released, &observer));
    EXPECT(LW_ERROR_HANDLE, lw_master_shutdown(master, LW_SHUTDOWN_FAST, 0, &report));
    MUST(report == NULL);
    if (handle != NULL) {
        EXPECT(LW_ERROR_HANDLE, lw_master_free(master));
    }
    OK(lw_inbox_free(inbox));
}

static void as_other(void *handle)
{
    const char *text;
    uint64_t number;
    int fd;
    void *context;
    lw_lease *lease;
    lw_running *running;
    const lw_event *event;
    const lw_finished *finished;
    const lw_lease_info *info;
    uint8_t buffer[4];
    bool yes;
    GROWING(lw_command, command);
    command.shell = "true";
    GROWING(lw_output, output);
    GROWING(lw_agent, agent);
    agent.release = never_released;

    lw_worker *worker = (lw_worker *)handle;
    EXPECT(LW_ERROR_HANDLE, lw_worker_status(worker, &text));
    EXPECT(LW_ERROR_HANDLE, lw_worker_pause(worker));
    EXPECT(LW_ERROR_HANDLE, lw_worker_unpause(worker));
    EXPECT(LW_ERROR_HANDLE, lw_worker_insubstantiate(worker, 1, LW_FOREVER));

    lw_ticket *ticket = (lw_ticket *)handle;
    EXPECT(LW_ERROR_HANDLE, lw_ticket_build(ticket, &number));
    EXPECT(LW_ERROR_HANDLE, lw_ticket_wait(ticket, LW_FOREVER, &lease));
    EXPECT(LW_ERROR_HANDLE, lw_ticket_cancel(ticket));

    lw_inbox *inbox = (lw_inbox *)handle;
    EXPECT(LW_ERROR_HANDLE, lw_inbox_take(inbox, LW_FOREVER, &number, &lease));
    EXPECT(LW_ERROR_HANDLE, lw_inbox_fd(inbox, &fd));
    MUST(fd == -1);

    lw_lease *as_lease = (lw_lease *)handle;
    EXPECT(LW_ERROR_HANDLE, lw_lease_get_info(as_lease, &info));
    EXPECT(LW_ERROR_HANDLE, lw_lease_wait_end(as_lease, LW_FOREVER));
    EXPECT(LW_ERROR_HANDLE, lw_lease_run(as_lease, &command, &finished));
    EXPECT(LW_ERROR_HANDLE, lw_lease_start(as_lease, &command, &running));
    EXPECT(LW_ERROR_HANDLE, lw_lease_write_file(as_lease, "/dev/null", "path", 0));
    EXPECT(LW_ERROR_HANDLE, lw_lease_read_file(as_lease, "path", "/dev/null"));
    EXPECT(LW_ERROR_HANDLE, lw_lease_finish(as_lease, LW_RESULT_SUCCEEDED, NULL));
    EXPECT(LW_ERROR_HANDLE, lw_lease_retry(as_lease, NULL));
    EXPECT(LW_ERROR_HANDLE, lw_lease_agent(as_lease, &context));

    lw_running *as_running = (lw_running *)handle;
    EXPECT(LW_ERROR_HANDLE, lw_running_read(as_running, LW_FOREVER, buffer, sizeof buffer, &output));
    EXPECT(LW_ERROR_HANDLE, lw_running_interrupt(as_running));

    lw_events *events = (lw_events *)handle;
    EXPECT(LW_ERROR_HANDLE, lw_events_take(events, LW_FOREVER, &event));
    EXPECT(LW_ERROR_HANDLE, lw_events_fd(events, &fd));

    lw_start *start = (lw_start *)handle;
    EXPECT(LW_ERROR_HANDLE, lw_start_cancelled(start, &yes));
    EXPECT(LW_ERROR_HANDLE, lw_start_sleep(start, LW_FOREVER));
    EXPECT(LW_ERROR_HANDLE, lw_start_record(start, "id"));
    EXPECT(LW_ERROR_HANDLE, lw_start_progress(start, "text"));
    EXPECT(LW_ERROR_HANDLE, lw_start_detail(start, "text"));
    EXPECT(LW_ERROR_HANDLE, lw_start_retry_after(start, 1));
    EXPECT(LW_ERROR_HANDLE, lw_start_attach(start, &agent, NULL));

    lw_reclaim *reclaim = (lw_reclaim *)handle;
    EXPECT(LW_ERROR_HANDLE, lw_reclaim_cancelled(reclaim, &yes));
    EXPECT(LW_ERROR_HANDLE, lw_reclaim_sleep(reclaim, LW_FOREVER));

    EXPECT(LW_ERROR_HANDLE, lw_attachment_lost((lw_attachment *)handle, NULL));

    lw_process *process = (lw_process *)handle;
    EXPECT(LW_ERROR_HANDLE, lw_process_write(process, LW_STREAM_OUT, buffer, 0));
    EXPECT(LW_ERROR_HANDLE, lw_process_end(process, LW_EXIT_CODE, 0));
    EXPECT(LW_ERROR_HANDLE, lw_process_fail(process, NULL));
    if (handle != NULL) {
        EXPECT(LW_ERROR_HANDLE, lw_worker_free(worker));
        EXPECT(LW_ERROR_HANDLE, lw_ticket_free(ticket));
        EXPECT(LW_ERROR_HANDLE, lw_inbox_free(inbox));
        EXPECT(LW_ERROR_HANDLE, lw_lease_free(as_lease));
        EXPECT(LW_ERROR_HANDLE, lw_running_free(as_running));
        EXPECT(LW_ERROR_HANDLE, lw_events_free(events));
        EXPECT(LW_ERROR_HANDLE, lw_observer_free((lw_observer *)handle));
        EXPECT(LW_ERROR_HANDLE, lw_attachment_free((lw_attachment *)handle));
        EXPECT(LW_ERROR_HANDLE, lw_free(handle));
    }
}

static void no_places(lw_master *master, lw_lease *lease)
{
    GROWING(lw_build, build);
    build.name = "build";
    GROWING(lw_command, command);
    command.shell = "true";
    lw_ticket *ticket = submit(master, "nobody takes it");
    lw_inbox *inbox;
    lw_events *events;
    uint64_t number;
    lw_lease *taken;
    OK(lw_inbox_new(&inbox));
    OK(lw_master_events(master, 1, &events));
    EXPECT(LW_ERROR_ARGUMENT, lw_abi_version(NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_live(NULL, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_has_feature("local", NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_master_new(NULL, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_master_submit(master, &build, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_master_submit_to(master, &build, inbox, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_master_worker(master, "x", NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_master_address(master, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_master_status(master, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_master_build_status(master, 1, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_master_events(master, 1, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_master_observe(master, 1, never_called, NULL, never_released, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_ticket_build(ticket, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_ticket_wait(ticket, 0, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_inbox_new(NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_inbox_take(inbox, 0, NULL, &taken));
    EXPECT(LW_ERROR_ARGUMENT, lw_inbox_take(inbox, 0, &number, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_inbox_fd(inbox, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_events_take(events, 0, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_events_fd(events, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_lease_get_info(lease, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_lease_run(lease, &command, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_lease_start(lease, &command, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_lease_agent(lease, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_start_cancelled(NULL, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_reclaim_cancelled(NULL, NULL));
    OK(lw_events_free(events));
    OK(lw_inbox_free(inbox));
    OK(lw_ticket_free(ticket));
}

/* A text that is none, in every place for a text. */
static void texts(lw_master *master, lw_lease *lease, const char *text)
{
    int is_null = text == NULL;
    lw_master *made;
    lw_ticket *ticket;
    lw_worker *worker;
    const lw_finished *finished;
    const char *texts_[1] = {text};

    GROWING(lw_master_options, settings);
    if (!is_null) {
        settings.journal = text;
        EXPECT(LW_ERROR_ARGUMENT, lw_master_new(&settings, &made));
        settings.journal = NULL;
        settings.listen = text;
        lw_code code = lw_master_new(&settings, &made);
        MUST(code == LW_ERROR_ARGUMENT || code == LW_ERROR_UNSUPPORTED);
        settings.listen = NULL;
        settings.agent_address = text;
        EXPECT(LW_ERROR_ARGUMENT, lw_master_new(&settings, &made));
        EXPECT(LW_ERROR_ARGUMENT, lw_lease_finish(lease, LW_RESULT_FAILED, text));
        EXPECT(LW_ERROR_ARGUMENT, lw_lease_retry(lease, text));
        EXPECT(LW_ERROR_ARGUMENT, lw_set_reason(text));
        EXPECT(LW_ERROR_ARGUMENT, lw_attachment_lost(NULL, text));
    }
    GROWING(lw_build, build);
    build.name = text;
    EXPECT(LW_ERROR_ARGUMENT, lw_master_submit(master, &build, &ticket));
    build.name = "build";
    lw_property properties[1] = {{text, "value"}};
    build.properties = properties;
    build.property_count = 1;
    EXPECT(LW_ERROR_ARGUMENT, lw_master_submit(master, &build, &ticket));
    properties[0].name = "name";
    properties[0].value = text;
    EXPECT(LW_ERROR_ARGUMENT, lw_master_submit(master, &build, &ticket));
    build.property_count = 0;
    build.labels = texts_;
    build.label_count = 1;
    EXPECT(LW_ERROR_ARGUMENT, lw_master_submit(master, &build, &ticket));
    MUST(ticket == NULL);

    GROWING(lw_worker_options, options);
    options.name = text;
    EXPECT(LW_ERROR_ARGUMENT, lw_master_add_local(master, &options, NULL, &worker));
    options.name = "worker";
    options.labels = texts_;
    options.label_count = 1;
    EXPECT(LW_ERROR_ARGUMENT, lw_master_add_local(master, &options, NULL, &worker));
    options.label_count = 0;
    GROWING(lw_local_options, local);
    GROWING(lw_local_kind, kind);
    const lw_local_kind *kinds[1] = {&kind};
    local.kinds = kinds;
    local.kind_count = 1;
    kind.name = text;
    EXPECT(LW_ERROR_ARGUMENT, lw_master_add_local(master, &options, &local, &worker));
    kinds[0] = NULL;
    EXPECT(LW_ERROR_ARGUMENT, lw_master_add_local(master, &options, &local, &worker));
    EXPECT(LW_ERROR_ARGUMENT, lw_master_worker(master, text, &worker));
    EXPECT(LW_ERROR_ARGUMENT, lw_master_forget_leftover(master, text));
    int has;
    EXPECT(LW_ERROR_ARGUMENT, lw_has_feature(text, &has));

    GROWING(lw_command, command);
    command.shell = text;
    EXPECT(LW_ERROR_ARGUMENT, lw_lease_run(lease, &command, &finished));
    command.shell = NULL;
    command.arguments = texts_;
    command.argument_count = 1;
    EXPECT(LW_ERROR_ARGUMENT, lw_lease_run(lease, &command, &finished));
    command.argument_count = 0;
    command.shell = "true";
    properties[0].name = text;
    properties[0].value = "value";
    command.environment = properties;
    command.environment_count = 1;
    EXPECT(LW_ERROR_ARGUMENT, lw_lease_run(lease, &command, &finished));
    command.environment_count = 0;
    if (!is_null) {
        command.directory = text;
        EXPECT(LW_ERROR_ARGUMENT, lw_lease_run(lease, &command, &finished));
    }
    EXPECT(LW_ERROR_ARGUMENT, lw_lease_write_file(lease, text, "path", 0));
    EXPECT(LW_ERROR_ARGUMENT, lw_lease_write_file(lease, "/dev/null", text, 0));
    EXPECT(LW_ERROR_ARGUMENT, lw_lease_read_file(lease, text, "/dev/null"));
    EXPECT(LW_ERROR_ARGUMENT, lw_lease_read_file(lease, "path", text));
    EXPECT(LW_ERROR_ARGUMENT, lw_start_record(NULL, text));
    EXPECT(LW_ERROR_ARGUMENT, lw_start_progress(NULL, text));
    EXPECT(LW_ERROR_ARGUMENT, lw_start_detail(NULL, text));
}

static void lengths(lw_master *master, lw_lease *lease)
{
    lw_ticket *ticket;
    lw_worker *worker;
    const lw_finished *finished;
    const char *texts_[1] = {"text"};
    lw_property properties[1] = {{"name", "value"}};
    GROWING(lw_local_kind, kind);
    kind.name = "kind";
    const lw_local_kind *kinds[1] = {&kind};
    uint8_t byte = 0;

    for (size_t i = 0; i < HUGE_COUNT; i++) {
        GROWING(lw_build, build);
        build.name = "build";
        build.properties = properties;
        build.property_count = huge[i];
        EXPECT(LW_ERROR_ARGUMENT, lw_master_submit(master, &build, &ticket));
        build.property_count = 1;
        build.labels = texts_;
        build.label_count = huge[i];
        EXPECT(LW_ERROR_ARGUMENT, lw_master_submit(master, &build, &ticket));
        GROWING(lw_worker_options, options);
        options.name = "worker";
        options.labels = texts_;
        options.label_count = huge[i];
        EXPECT(LW_ERROR_ARGUMENT, lw_master_add_local(master, &options, NULL, &worker));
        options.label_count = 0;
        GROWING(lw_local_options, local);
        local.kinds = kinds;
        local.kind_count = huge[i];
        EXPECT(LW_ERROR_ARGUMENT, lw_master_add_local(master, &options, &local, &worker));
        local.kind_count = 1;
        kind.environment = properties;
        kind.environment_count = huge[i];
        EXPECT(LW_ERROR_ARGUMENT, lw_master_add_local(master, &options, &local, &worker));
        GROWING(lw_command, command);
        command.arguments = texts_;
        command.argument_count = huge[i];
        EXPECT(LW_ERROR_ARGUMENT, lw_lease_run(lease, &command, &finished));
        command.argument_count = 1;
        command.environment = properties;
        command.environment_count = huge[i];
        EXPECT(LW_ERROR_ARGUMENT, lw_lease_run(lease, &command, &finished));
        command.environment_count = 0;
        command.input = &byte;
        command.input_length = i == HUGE_COUNT - 1 ? ((size_t)1 << 30) + 1 : huge[i];
        EXPECT(LW_ERROR_ARGUMENT, lw_lease_run(lease, &command, &finished));
    }

    /* A length without anything behind it, and something without a length. */
    GROWING(lw_build, build);
    build.name = "build";
    build.property_count = 1;
    EXPECT(LW_ERROR_ARGUMENT, lw_master_submit(master, &build, &ticket));
    build.property_count = 0;
    build.label_count = 1;
    EXPECT(LW_ERROR_ARGUMENT, lw_master_submit(master, &build, &ticket));
    build.label_count = 0;
    build.properties = properties;
    build.labels = texts_;
    OK(lw_master_submit(master, &build, &ticket));
    OK(lw_ticket_free(ticket));
    GROWING(lw_command, command);
    EXPECT(LW_ERROR_ARGUMENT, lw_lease_run(lease, &command, &finished));
    command.shell = "true";
    command.input_length = 1;
    EXPECT(LW_ERROR_ARGUMENT, lw_lease_run(lease, &command, &finished));
    command.input_length = 0;
    command.arguments = texts_;
    command.argument_count = 1;
    EXPECT(LW_ERROR_ARGUMENT, lw_lease_run(lease, &command, &finished));
    command.argument_count = 0;
    /* A name that is empty, of no program, of no directory. */
    command.shell = NULL;
    texts_[0] = "";
    command.arguments = texts_;
    command.argument_count = 1;
    is_not_run(lease, &command);

    /* Room to read into. */
    GROWING(lw_command, cat);
    cat.shell = "echo text; exec sleep 600";
    lw_running *running;
    OK(lw_lease_start(lease, &cat, &running));
    GROWING(lw_output, output);
    uint8_t buffer[16];
    EXPECT(LW_ERROR_ARGUMENT, lw_running_read(running, MINUTE, NULL, 16, &output));
    EXPECT(LW_ERROR_ARGUMENT, lw_running_read(running, MINUTE, buffer, 0, &output));
    EXPECT(LW_ERROR_ARGUMENT, lw_running_read(running, MINUTE, buffer, 16, NULL));
    output.size = 3;
    EXPECT(LW_ERROR_ARGUMENT, lw_running_read(running, MINUTE, buffer, 16, &output));
    output.size = sizeof output;
    OK(lw_running_read(running, MINUTE, buffer, 16, &output));
    MUST(output.length == 5 && memcmp(buffer, "text\n", 5) == 0);
    OK(lw_running_free(running));
}

static void sizes_and_choices(lw_master *master, lw_lease *lease)
{
    static const size_t sizes[] = {0, 1, sizeof(size_t) - 1, 4097, SIZE_MAX};
    lw_master *made;
    lw_ticket *ticket;
    lw_worker *worker;
    const lw_finished *finished;
    const lw_report *report;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        GROWING(lw_master_options, settings);
        settings.size = sizes[i];
        EXPECT(LW_ERROR_ARGUMENT, lw_master_new(&settings, &made));
        GROWING(lw_build, build);
        build.name = "build";
        build.size = sizes[i];
        EXPECT(LW_ERROR_ARGUMENT, lw_master_submit(master, &build, &ticket));
        GROWING(lw_worker_options, options);
        options.name = "worker";
        options.size = sizes[i];
        EXPECT(LW_ERROR_ARGUMENT, lw_master_add_local(master, &options, NULL, &worker));
        options.size = sizeof options;
        GROWING(lw_local_options, local);
        local.size = sizes[i];
        EXPECT(LW_ERROR_ARGUMENT, lw_master_add_local(master, &options, &local, &worker));
        GROWING(lw_driver, driver);
        driver.start = never_started;
        driver.stop = never_stopped;
        driver.release = never_released;
        driver.size = sizes[i];
        EXPECT(LW_ERROR_ARGUMENT, lw_master_add_driver(master, &options, &driver, &worker));
        GROWING(lw_command, command);
        command.shell = "true";
        command.size = sizes[i];
        EXPECT(LW_ERROR_ARGUMENT, lw_lease_run(lease, &command, &finished));
    }
    static const int choices[] = {-1, 3, 99, -2147483647 - 1, 2147483647};
    for (size_t i = 0; i < sizeof choices / sizeof choices[0]; i++) {
        GROWING(lw_worker_options, options);
        options.name = "worker";
        options.idle = choices[i];
        EXPECT(LW_ERROR_ARGUMENT, lw_master_add_local(master, &options, NULL, &worker));
        EXPECT(LW_ERROR_ARGUMENT, lw_lease_finish(lease, choices[i], NULL));
        EXPECT(LW_ERROR_ARGUMENT, lw_master_shutdown(master, choices[i], 0, &report));
    }
    GROWING(lw_worker_options, options);
    options.name = "a:b";
    EXPECT(LW_ERROR_ARGUMENT, lw_master_add_local(master, &options, NULL, &worker));
    options.name = "worker";
    GROWING(lw_driver, driver);
    driver.release = never_released;
    EXPECT(LW_ERROR_ARGUMENT, lw_master_add_driver(master, &options, &driver, &worker));
    driver.start = never_started;
    EXPECT(LW_ERROR_ARGUMENT, lw_master_add_driver(master, &options, &driver, &worker));
    driver.stop = never_stopped;
    options.name = "held"; /* that of the worker that is there */
    EXPECT(LW_ERROR_NAME_TAKEN, lw_master_add_driver(master, &options, &driver, &worker));
    EXPECT(LW_ERROR_ARGUMENT, lw_master_add_driver(master, &options, NULL, &worker));
    EXPECT(LW_ERROR_ARGUMENT, lw_master_add_driver(master, NULL, &driver, &worker));
    lw_observer *observer;
    EXPECT(LW_ERROR_ARGUMENT, lw_master_observe(master, 1, NULL, NULL, never_released, &observer));

    /* Files and addresses that cannot be. */
    GROWING(lw_master_options, settings);
    settings.journal = "/nowhere/at/all";
    EXPECT(LW_ERROR_SYSTEM, lw_master_new(&settings, &made));
    settings.journal = "/dev/null";
    EXPECT(LW_ERROR_JOURNAL, lw_master_new(&settings, &made));
    settings.journal = NULL;
    settings.listen = "no address";
    lw_code code = lw_master_new(&settings, &made);
    MUST(code == LW_ERROR_SYSTEM || code == LW_ERROR_UNSUPPORTED);
    settings.listen = NULL;
    int has_agent;
    OK(lw_has_feature("agent", &has_agent));
    if (has_agent) {
        settings.heartbeat_interval_ms = 1;
        EXPECT(LW_ERROR_ARGUMENT, lw_master_new(&settings, &made));
        settings.heartbeat_interval_ms = 0;
        settings.tls_key = "/dev/null";
        EXPECT(LW_ERROR_ARGUMENT, lw_master_new(&settings, &made));
    }
    MUST(made == NULL);
}

int main(void)
{
    lw_master *master = new_master();
    GROWING(lw_worker_options, options);
    options.name = "held";
    lw_worker *worker;
    OK(lw_master_add_local(master, &options, NULL, &worker));
    lw_ticket *ticket = submit(master, "held");
    lw_lease *lease = lease_of(ticket);

    no_places(master, lease);
    texts(master, lease, NULL);
    texts(master, lease, bad_text);
    lengths(master, lease);
    sizes_and_choices(master, lease);

    /* Handles: none, never given out, of another kind, real pointers, and, at the end, freed. */
    int local;
    void *none[] = {NULL, (void *)(size_t)0xdeadbeef, (void *)(size_t)-1, &local, (void *)"text"};
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) {
        as_master(none[i]);
        as_other(none[i]);
    }
    as_other(master);
    as_master(ticket);
    as_master(lease);
    as_master(worker);
    EXPECT(LW_ERROR_HANDLE, lw_lease_wait_end((lw_lease *)ticket, 0));
    EXPECT(LW_ERROR_HANDLE, lw_ticket_cancel((lw_ticket *)lease));

    /* All of that has changed nothing. */
    EXPECT(LW_ERROR_TIMEOUT, lw_lease_wait_end(lease, 0));
    OK(lw_lease_finish(lease, LW_RESULT_SUCCEEDED, NULL));
    OK(lw_ticket_free(ticket));
    OK(lw_worker_free(worker));
    OK(lw_master_shutdown(master, LW_SHUTDOWN_GRACEFUL, MINUTE, NULL));
    OK(lw_master_free(master));
    void *freed[] = {master, ticket, lease, worker};
    for (size_t i = 0; i < sizeof freed / sizeof freed[0]; i++) {
        as_master(freed[i]);
        as_other(freed[i]);
    }
    NOTHING_IS_LEFT();
    puts("abuse: all refused");
    return 0;
}
