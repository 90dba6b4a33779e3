/* Every function with what nobody should pass: NULL, handles that were freed, that are of another kind, that were never
 * given out; bad UTF-8; lengths of zero and lengths that cannot be; numbers that are no choice. Nothing may crash, hang or
 * leak, and each call must say that it was wrong. */
#include "common.h"

static const char *const bad_text = "caf\xe9 \xff\xfe";
static const size_t huge[] = {SIZE_MAX, SIZE_MAX / 2, SIZE_MAX / sizeof(void *), (size_t)1 << 40, 65537};
#define HUGE_COUNT (sizeof huge / sizeof huge[0])

/* The call fails with this code, and what lay in its place is gone. */
#define REFUSED(expected, place, call)                                                        \
    do {                                                                                      \
        memset(&(place), 0x5a, sizeof(place));                                                \
        EXPECT(expected, call);                                                               \
        MUST((place) == 0);                                                                   \
    } while (0)

/* The same, or this build of the library lacks it and says so. */
#define REFUSED_OR_LACKING(expected, place, call)                                             \
    do {                                                                                      \
        memset(&(place), 0x5a, sizeof(place));                                                \
        int lacking_ = (int)(call);                                                           \
        if (lacking_ != LW_ERROR_UNSUPPORTED) {                                               \
            EXPECT(expected, lacking_);                                                       \
        }                                                                                     \
        MUST((place) == 0);                                                                   \
    } while (0)

static int32_t never_started(void *context, lw_start *start, const lw_start_request *request, void **instance)
{
    (void)context, (void)start, (void)request, (void)instance;
    MUST(!"nothing is ever started here");
    return LW_ANSWER_FAILED;
}

static int32_t never_stopped(void *context, lw_stop *call, const lw_stop_request *request)
{
    (void)context, (void)call, (void)request;
    MUST(!"nothing is ever stopped here");
    return LW_ANSWER_FAILED;
}

static void never_called(void *context, const lw_event *event)
{
    (void)context, (void)event;
    MUST(!"nothing ever happens here");
}

static void ignored(void *context, const lw_event *event)
{
    (void)context, (void)event;
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
    REFUSED(LW_ERROR_HANDLE, ticket, lw_master_submit(master, &build, &ticket));
    REFUSED(LW_ERROR_HANDLE, number, lw_master_submit_to(master, &build, inbox, &number));
    REFUSED(LW_ERROR_HANDLE, worker, lw_master_add_driver(master, &options, &driver, &worker));
    REFUSED(LW_ERROR_HANDLE, worker, lw_master_add_local(master, &options, NULL, &worker));
    REFUSED_OR_LACKING(LW_ERROR_HANDLE, worker, lw_master_add_command(master, &options, NULL, &worker));
    REFUSED_OR_LACKING(LW_ERROR_HANDLE, worker, lw_master_add_process(master, &options, NULL, &worker));
    REFUSED_OR_LACKING(LW_ERROR_HANDLE, worker, lw_master_add_docker(master, &options, "{}", &worker));
    REFUSED_OR_LACKING(LW_ERROR_HANDLE, worker, lw_master_add_ec2(master, &options, "{}", &worker));
    REFUSED(LW_ERROR_HANDLE, worker, lw_master_worker(master, "worker", &worker));
    REFUSED(LW_ERROR_HANDLE, text, lw_master_address(master, &text));
    REFUSED(LW_ERROR_HANDLE, text, lw_master_status(master, &text));
    REFUSED(LW_ERROR_HANDLE, text, lw_master_build_status(master, 1, &text));
    REFUSED(LW_ERROR_HANDLE, text, lw_master_queue(master, NULL, 1, &text));
    EXPECT(LW_ERROR_HANDLE, lw_master_forget_leftover(master, "key"));
    EXPECT(LW_ERROR_HANDLE, lw_master_cancel(master, 1));
    REFUSED(LW_ERROR_HANDLE, events, lw_master_events(master, 1, &events));
    REFUSED(LW_ERROR_HANDLE, observer, lw_master_observe(master, 1, never_called, NULL, never_released, &observer));
    REFUSED(LW_ERROR_HANDLE, report, lw_master_shutdown(master, LW_SHUTDOWN_FAST, 0, &report));
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
    REFUSED(LW_ERROR_HANDLE, text, lw_worker_status(worker, &text));
    EXPECT(LW_ERROR_HANDLE, lw_worker_pause(worker));
    EXPECT(LW_ERROR_HANDLE, lw_worker_unpause(worker));
    EXPECT(LW_ERROR_HANDLE, lw_worker_insubstantiate(worker, 1, LW_FOREVER));

    lw_ticket *ticket = (lw_ticket *)handle;
    REFUSED(LW_ERROR_HANDLE, number, lw_ticket_build(ticket, &number));
    REFUSED(LW_ERROR_HANDLE, lease, lw_ticket_wait(ticket, LW_FOREVER, &lease));
    EXPECT(LW_ERROR_HANDLE, lw_ticket_cancel(ticket));

    lw_inbox *inbox = (lw_inbox *)handle;
    number = 7;
    REFUSED(LW_ERROR_HANDLE, lease, lw_inbox_take(inbox, LW_FOREVER, &number, &lease));
    MUST(number == 0);
    fd = 7;
    EXPECT(LW_ERROR_HANDLE, lw_inbox_fd(inbox, &fd));
    MUST(fd == -1);

    lw_lease *as_lease = (lw_lease *)handle;
    REFUSED(LW_ERROR_HANDLE, info, lw_lease_get_info(as_lease, &info));
    EXPECT(LW_ERROR_HANDLE, lw_lease_wait_end(as_lease, LW_FOREVER));
    REFUSED(LW_ERROR_HANDLE, finished, lw_lease_run(as_lease, &command, &finished));
    REFUSED(LW_ERROR_HANDLE, running, lw_lease_start(as_lease, &command, &running));
    EXPECT(LW_ERROR_HANDLE, lw_lease_write_file(as_lease, "/dev/null", "path", 0));
    EXPECT(LW_ERROR_HANDLE, lw_lease_read_file(as_lease, "path", "/dev/null"));
    EXPECT(LW_ERROR_HANDLE, lw_lease_finish(as_lease, LW_RESULT_SUCCEEDED, NULL));
    EXPECT(LW_ERROR_HANDLE, lw_lease_retry(as_lease, NULL));
    EXPECT(LW_ERROR_HANDLE, lw_lease_retire(as_lease, NULL));
    REFUSED(LW_ERROR_HANDLE, context, lw_lease_agent(as_lease, &context));

    lw_running *as_running = (lw_running *)handle;
    output.stream = 7;
    output.length = 7;
    EXPECT(LW_ERROR_HANDLE, lw_running_read(as_running, LW_FOREVER, buffer, sizeof buffer, &output));
    MUST(output.stream == 0 && output.length == 0);
    EXPECT(LW_ERROR_HANDLE, lw_running_interrupt(as_running));

    lw_events *events = (lw_events *)handle;
    REFUSED(LW_ERROR_HANDLE, event, lw_events_take(events, LW_FOREVER, &event));
    fd = 7;
    EXPECT(LW_ERROR_HANDLE, lw_events_fd(events, &fd));
    MUST(fd == -1);

    lw_start *start = (lw_start *)handle;
    REFUSED(LW_ERROR_HANDLE, yes, lw_start_cancelled(start, &yes));
    EXPECT(LW_ERROR_HANDLE, lw_start_sleep(start, LW_FOREVER));
    EXPECT(LW_ERROR_HANDLE, lw_start_record(start, "id"));
    EXPECT(LW_ERROR_HANDLE, lw_start_progress(start, "text"));
    EXPECT(LW_ERROR_HANDLE, lw_start_detail(start, "text"));
    EXPECT(LW_ERROR_HANDLE, lw_start_retry_after(start, 1));
    EXPECT(LW_ERROR_HANDLE, lw_start_attach(start, &agent, NULL));
    lw_attachment *attachment;
    REFUSED(LW_ERROR_HANDLE, attachment, lw_start_attach(start, &agent, &attachment));
    REFUSED(LW_ERROR_HANDLE, attachment, lw_start_attach(start, NULL, &attachment));

    lw_stop *stop = (lw_stop *)handle;
    REFUSED(LW_ERROR_HANDLE, yes, lw_stop_hurried(stop, &yes));
    EXPECT(LW_ERROR_HANDLE, lw_stop_sleep(stop, LW_FOREVER));

    lw_reclaim *reclaim = (lw_reclaim *)handle;
    REFUSED(LW_ERROR_HANDLE, yes, lw_reclaim_cancelled(reclaim, &yes));
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
    size_t live;
    REFUSED(LW_ERROR_ARGUMENT, live, lw_live(NULL, &live));
    REFUSED(LW_ERROR_ARGUMENT, live, lw_live(&live, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_has_feature("local", NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_master_new(NULL, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_master_submit(master, &build, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_master_submit_to(master, &build, inbox, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_master_worker(master, "x", NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_master_address(master, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_master_status(master, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_master_build_status(master, 1, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_master_queue(master, NULL, 1, NULL));
    const char *page;
    REFUSED(LW_ERROR_ARGUMENT, page, lw_master_queue(master, "the front", 1, &page));
    EXPECT(LW_ERROR_ARGUMENT, lw_master_events(master, 1, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_master_observe(master, 1, never_called, NULL, never_released, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_ticket_build(ticket, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_ticket_wait(ticket, 0, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_inbox_new(NULL));
    REFUSED(LW_ERROR_ARGUMENT, taken, lw_inbox_take(inbox, 0, NULL, &taken));
    number = 7;
    EXPECT(LW_ERROR_ARGUMENT, lw_inbox_take(inbox, 0, &number, NULL));
    MUST(number == 0);
    EXPECT(LW_ERROR_ARGUMENT, lw_inbox_fd(inbox, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_events_take(events, 0, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_events_fd(events, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_lease_get_info(lease, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_lease_run(lease, &command, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_lease_start(lease, &command, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_lease_agent(lease, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_start_cancelled(NULL, NULL));
    EXPECT(LW_ERROR_ARGUMENT, lw_stop_hurried(NULL, NULL));
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
        REFUSED(LW_ERROR_ARGUMENT, made, lw_master_new(&settings, &made));
        settings.journal = NULL;
        settings.listen = text;
        REFUSED_OR_LACKING(LW_ERROR_ARGUMENT, made, lw_master_new(&settings, &made));
        settings.listen = NULL;
        settings.agent_address = text;
        REFUSED(LW_ERROR_ARGUMENT, made, lw_master_new(&settings, &made));
        EXPECT(LW_ERROR_ARGUMENT, lw_lease_finish(lease, LW_RESULT_FAILED, text));
        EXPECT(LW_ERROR_ARGUMENT, lw_lease_retry(lease, text));
        EXPECT(LW_ERROR_ARGUMENT, lw_lease_retire(lease, text));
        EXPECT(LW_ERROR_ARGUMENT, lw_set_reason(text));
        EXPECT(LW_ERROR_ARGUMENT, lw_set_kind(text));
        EXPECT(LW_ERROR_ARGUMENT, lw_attachment_lost(NULL, text));
        EXPECT(LW_ERROR_ARGUMENT, lw_process_fail(NULL, text));
        int has_agent;
        OK(lw_has_feature("agent", &has_agent));
        if (has_agent) {
            settings.agent_address = NULL;
            settings.tls_certificates = text;
            settings.tls_key = "/dev/null";
            REFUSED(LW_ERROR_ARGUMENT, made, lw_master_new(&settings, &made));
            settings.tls_certificates = "/dev/null";
            settings.tls_key = text;
            REFUSED(LW_ERROR_ARGUMENT, made, lw_master_new(&settings, &made));
        }
    }
    GROWING(lw_build, build);
    build.name = text;
    REFUSED(LW_ERROR_ARGUMENT, ticket, lw_master_submit(master, &build, &ticket));
    build.name = "build";
    lw_property properties[1] = {{text, "value"}};
    build.properties = properties;
    build.property_count = 1;
    REFUSED(LW_ERROR_ARGUMENT, ticket, lw_master_submit(master, &build, &ticket));
    properties[0].name = "name";
    properties[0].value = text;
    REFUSED(LW_ERROR_ARGUMENT, ticket, lw_master_submit(master, &build, &ticket));
    build.property_count = 0;
    build.labels = texts_;
    build.label_count = 1;
    REFUSED(LW_ERROR_ARGUMENT, ticket, lw_master_submit(master, &build, &ticket));

    GROWING(lw_worker_options, options);
    options.name = text;
    REFUSED(LW_ERROR_ARGUMENT, worker, lw_master_add_local(master, &options, NULL, &worker));
    options.name = "worker";
    options.labels = texts_;
    options.label_count = 1;
    REFUSED(LW_ERROR_ARGUMENT, worker, lw_master_add_local(master, &options, NULL, &worker));
    options.label_count = 0;
    GROWING(lw_local_options, local);
    GROWING(lw_local_kind, kind);
    const lw_local_kind *kinds[1] = {&kind};
    local.kinds = kinds;
    local.kind_count = 1;
    kind.name = text;
    REFUSED(LW_ERROR_ARGUMENT, worker, lw_master_add_local(master, &options, &local, &worker));
    kinds[0] = NULL;
    REFUSED(LW_ERROR_ARGUMENT, worker, lw_master_add_local(master, &options, &local, &worker));
    REFUSED(LW_ERROR_ARGUMENT, worker, lw_master_worker(master, text, &worker));
    EXPECT(LW_ERROR_ARGUMENT, lw_master_forget_leftover(master, text));
    int has;
    REFUSED(LW_ERROR_ARGUMENT, has, lw_has_feature(text, &has));
    kinds[0] = &kind;
    kind.name = "kind";
    kind.environment = properties;
    kind.environment_count = 1;
    properties[0].name = text;
    properties[0].value = "value";
    REFUSED(LW_ERROR_ARGUMENT, worker, lw_master_add_local(master, &options, &local, &worker));
    if (!is_null) {
        properties[0].name = "name";
        properties[0].value = text;
        REFUSED(LW_ERROR_ARGUMENT, worker, lw_master_add_local(master, &options, &local, &worker));
        kind.environment_count = 0;
        kind.template_directory = text;
        REFUSED(LW_ERROR_ARGUMENT, worker, lw_master_add_local(master, &options, &local, &worker));
        local.kind_count = 0;
        local.root = text;
        REFUSED(LW_ERROR_ARGUMENT, worker, lw_master_add_local(master, &options, &local, &worker));
        local.root = NULL;
        local.kind_property = text;
        REFUSED(LW_ERROR_ARGUMENT, worker, lw_master_add_local(master, &options, &local, &worker));
    }
    /* One of the words of a program, or of the names in a list. */
    const char *words[2] = {"/bin/true", text};
    for (int i = 0; i < 5; i++) {
        GROWING(lw_command_options, made_by);
        made_by.start = made_by.stop = made_by.check = made_by.reclaim = made_by.compatible_by = words;
        made_by.start_count = 1 + (i == 0);
        made_by.stop_count = 1 + (i == 1);
        made_by.check_count = 1 + (i == 2);
        made_by.reclaim_count = 1 + (i == 3);
        made_by.compatible_by_count = 1 + (i == 4);
        REFUSED_OR_LACKING(LW_ERROR_ARGUMENT, worker, lw_master_add_command(master, &options, &made_by, &worker));
    }
    for (int i = 0; i < 2; i++) {
        GROWING(lw_process_options, process);
        process.agent = process.compatible_by = words;
        process.agent_count = 1 + (i == 0);
        process.compatible_by_count = 1 + (i == 1);
        REFUSED_OR_LACKING(LW_ERROR_ARGUMENT, worker, lw_master_add_process(master, &options, &process, &worker));
    }
    REFUSED_OR_LACKING(LW_ERROR_ARGUMENT, worker, lw_master_add_docker(master, &options, text, &worker));
    REFUSED_OR_LACKING(LW_ERROR_ARGUMENT, worker, lw_master_add_ec2(master, &options, text, &worker));

    GROWING(lw_command, command);
    command.shell = text;
    REFUSED(LW_ERROR_ARGUMENT, finished, lw_lease_run(lease, &command, &finished));
    command.shell = NULL;
    command.arguments = texts_;
    command.argument_count = 1;
    REFUSED(LW_ERROR_ARGUMENT, finished, lw_lease_run(lease, &command, &finished));
    command.argument_count = 0;
    command.shell = "true";
    properties[0].name = text;
    properties[0].value = "value";
    command.environment = properties;
    command.environment_count = 1;
    REFUSED(LW_ERROR_ARGUMENT, finished, lw_lease_run(lease, &command, &finished));
    command.environment_count = 0;
    if (!is_null) {
        command.directory = text;
        REFUSED(LW_ERROR_ARGUMENT, finished, lw_lease_run(lease, &command, &finished));
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
        REFUSED(LW_ERROR_ARGUMENT, ticket, lw_master_submit(master, &build, &ticket));
        build.property_count = 1;
        build.labels = texts_;
        build.label_count = huge[i];
        REFUSED(LW_ERROR_ARGUMENT, ticket, lw_master_submit(master, &build, &ticket));
        GROWING(lw_worker_options, options);
        options.name = "worker";
        options.labels = texts_;
        options.label_count = huge[i];
        REFUSED(LW_ERROR_ARGUMENT, worker, lw_master_add_local(master, &options, NULL, &worker));
        options.label_count = 0;
        GROWING(lw_local_options, local);
        local.kinds = kinds;
        local.kind_count = huge[i];
        REFUSED(LW_ERROR_ARGUMENT, worker, lw_master_add_local(master, &options, &local, &worker));
        local.kind_count = 1;
        kind.environment = properties;
        kind.environment_count = huge[i];
        REFUSED(LW_ERROR_ARGUMENT, worker, lw_master_add_local(master, &options, &local, &worker));
        for (int j = 0; j < 5; j++) {
            GROWING(lw_command_options, made_by);
            made_by.start = made_by.stop = made_by.check = made_by.reclaim = made_by.compatible_by = texts_;
            made_by.start_count = j == 0 ? huge[i] : 1;
            made_by.stop_count = j == 1 ? huge[i] : 1;
            made_by.check_count = j == 2 ? huge[i] : 1;
            made_by.reclaim_count = j == 3 ? huge[i] : 1;
            made_by.compatible_by_count = j == 4 ? huge[i] : 1;
            REFUSED_OR_LACKING(LW_ERROR_ARGUMENT, worker, lw_master_add_command(master, &options, &made_by, &worker));
        }
        for (int j = 0; j < 2; j++) {
            GROWING(lw_process_options, process);
            process.agent = process.compatible_by = texts_;
            process.agent_count = j == 0 ? huge[i] : 1;
            process.compatible_by_count = j == 1 ? huge[i] : 1;
            REFUSED_OR_LACKING(LW_ERROR_ARGUMENT, worker, lw_master_add_process(master, &options, &process, &worker));
        }
        size_t too_long = i == HUGE_COUNT - 1 ? ((size_t)1 << 30) + 1 : huge[i];
        EXPECT(LW_ERROR_ARGUMENT, lw_process_write(NULL, LW_STREAM_OUT, &byte, too_long));
        GROWING(lw_command, command);
        command.arguments = texts_;
        command.argument_count = huge[i];
        REFUSED(LW_ERROR_ARGUMENT, finished, lw_lease_run(lease, &command, &finished));
        command.argument_count = 1;
        command.environment = properties;
        command.environment_count = huge[i];
        REFUSED(LW_ERROR_ARGUMENT, finished, lw_lease_run(lease, &command, &finished));
        command.environment_count = 0;
        command.input = &byte;
        command.input_length = too_long;
        REFUSED(LW_ERROR_ARGUMENT, finished, lw_lease_run(lease, &command, &finished));
    }

    /* No program at all, with nothing behind it and with something. */
    for (int j = 0; j < 4; j++) {
        const char *const *words = j < 2 ? NULL : texts_;
        GROWING(lw_worker_options, options);
        options.name = "worker";
        GROWING(lw_command_options, made_by);
        made_by.start = made_by.stop = words;
        made_by.start_count = (size_t)(j % 2);
        made_by.stop_count = (size_t)(j == 3 ? 0 : j % 2);
        REFUSED_OR_LACKING(LW_ERROR_ARGUMENT, worker, lw_master_add_command(master, &options, &made_by, &worker));
        GROWING(lw_process_options, process);
        process.agent = words;
        process.agent_count = words == NULL ? (size_t)j : 0;
        REFUSED_OR_LACKING(LW_ERROR_ARGUMENT, worker, lw_master_add_process(master, &options, &process, &worker));
        REFUSED_OR_LACKING(LW_ERROR_ARGUMENT, worker, lw_master_add_command(master, &options, NULL, &worker));
        REFUSED_OR_LACKING(LW_ERROR_ARGUMENT, worker, lw_master_add_process(master, &options, NULL, &worker));
    }

    /* A length without anything behind it, and something without a length. */
    GROWING(lw_build, build);
    build.name = "build";
    build.property_count = 1;
    REFUSED(LW_ERROR_ARGUMENT, ticket, lw_master_submit(master, &build, &ticket));
    build.property_count = 0;
    build.label_count = 1;
    REFUSED(LW_ERROR_ARGUMENT, ticket, lw_master_submit(master, &build, &ticket));
    build.label_count = 0;
    build.properties = properties;
    build.labels = texts_;
    OK(lw_master_submit(master, &build, &ticket));
    OK(lw_ticket_free(ticket));
    GROWING(lw_command, command);
    REFUSED(LW_ERROR_ARGUMENT, finished, lw_lease_run(lease, &command, &finished));
    command.shell = "true";
    command.input_length = 1;
    REFUSED(LW_ERROR_ARGUMENT, finished, lw_lease_run(lease, &command, &finished));
    command.input_length = 0;
    command.arguments = texts_;
    command.argument_count = 1;
    REFUSED(LW_ERROR_ARGUMENT, finished, lw_lease_run(lease, &command, &finished));
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

/* Numbers that have no upper end, and zero, which stands for a number that makes sense. */
static void numbers_without_an_end(void)
{
    static const size_t ends[] = {0, SIZE_MAX};
    for (size_t i = 0; i < 2; i++) {
        lw_master *master = new_master();
        lw_events *events;
        lw_observer *observer;
        const lw_event *event;
        OK(lw_master_events(master, ends[i], &events));
        OK(lw_master_observe(master, ends[i], ignored, NULL, NULL, &observer));
        GROWING(lw_worker_options, options);
        options.name = "worker";
        options.max_builds = ends[i];
        options.idle_ms = options.missing_timeout_ms = options.check_interval_ms = ends[i];
        OK(lw_master_add_local(master, &options, NULL, NULL));
        lw_ticket *first = submit(master, "first"), *second = submit(master, "second");
        lw_lease *lease = lease_of(first), *other;
        OK(lw_events_take(events, MINUTE, &event));
        OK(lw_free(event));
        /* One at a time, or as many as come. */
        if (ends[i] == 0) {
            REFUSED(LW_ERROR_TIMEOUT, other, lw_ticket_wait(second, 0, &other));
        } else {
            OK(lw_lease_free(lease_of(second)));
        }

        GROWING(lw_command, command);
        command.shell = "echo text";
        command.keep_output = ends[i];
        command.time_limit_ms = command.silence_limit_ms = ends[i];
        const lw_finished *finished;
        OK(lw_lease_run(lease, &command, &finished));
        MUST(finished->out_length == 5 && finished->dropped == 0);
        OK(lw_free(finished));
        lw_running *running;
        OK(lw_lease_start(lease, &command, &running));
        /* It is said to be larger than it is. */
        uint8_t buffer[16];
        GROWING(lw_output, output);
        if (ends[i] != 0) {
            OK(lw_running_read(running, MINUTE, buffer, ends[i], &output));
            MUST(output.stream == LW_STREAM_OUT && output.length == 5 && memcmp(buffer, "text\n", 5) == 0);
        }
        OK(lw_running_free(running));
        OK(lw_lease_free(lease));
        OK(lw_ticket_free(first));
        OK(lw_ticket_free(second));
        OK(lw_events_free(events));
        OK(lw_observer_free(observer));
        OK(lw_master_free(master));
    }
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
        REFUSED(LW_ERROR_ARGUMENT, made, lw_master_new(&settings, &made));
        GROWING(lw_build, build);
        build.name = "build";
        build.size = sizes[i];
        REFUSED(LW_ERROR_ARGUMENT, ticket, lw_master_submit(master, &build, &ticket));
        GROWING(lw_worker_options, options);
        options.name = "worker";
        options.size = sizes[i];
        REFUSED(LW_ERROR_ARGUMENT, worker, lw_master_add_local(master, &options, NULL, &worker));
        options.size = sizeof options;
        GROWING(lw_local_options, local);
        local.size = sizes[i];
        REFUSED(LW_ERROR_ARGUMENT, worker, lw_master_add_local(master, &options, &local, &worker));
        GROWING(lw_driver, driver);
        driver.start = never_started;
        driver.stop = never_stopped;
        driver.release = never_released;
        driver.size = sizes[i];
        REFUSED(LW_ERROR_ARGUMENT, worker, lw_master_add_driver(master, &options, &driver, &worker));
        const char *words[1] = {"/bin/true"};
        GROWING(lw_command_options, made_by);
        made_by.start = made_by.stop = words;
        made_by.start_count = made_by.stop_count = 1;
        made_by.size = sizes[i];
        REFUSED_OR_LACKING(LW_ERROR_ARGUMENT, worker, lw_master_add_command(master, &options, &made_by, &worker));
        GROWING(lw_process_options, process);
        process.agent = words;
        process.agent_count = 1;
        process.size = sizes[i];
        REFUSED_OR_LACKING(LW_ERROR_ARGUMENT, worker, lw_master_add_process(master, &options, &process, &worker));
        GROWING(lw_command, command);
        command.shell = "true";
        command.size = sizes[i];
        REFUSED(LW_ERROR_ARGUMENT, finished, lw_lease_run(lease, &command, &finished));
    }
    static const int choices[] = {-1, 3, 99, -2147483647 - 1, 2147483647};
    for (size_t i = 0; i < sizeof choices / sizeof choices[0]; i++) {
        GROWING(lw_worker_options, options);
        options.name = "worker";
        options.idle = choices[i];
        REFUSED(LW_ERROR_ARGUMENT, worker, lw_master_add_local(master, &options, NULL, &worker));
        EXPECT(LW_ERROR_ARGUMENT, lw_lease_finish(lease, choices[i], NULL));
        REFUSED(LW_ERROR_ARGUMENT, report, lw_master_shutdown(master, choices[i], 0, &report));
    }
    GROWING(lw_worker_options, options);
    static const char *const names[] = {"", "a:b", "a\nb", "a\x1b", "a\xe2\x80\x8b"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        options.name = names[i];
        REFUSED(LW_ERROR_ARGUMENT, worker, lw_master_add_local(master, &options, NULL, &worker));
    }
    options.name = "worker";
    GROWING(lw_driver, driver);
    driver.release = never_released;
    REFUSED(LW_ERROR_ARGUMENT, worker, lw_master_add_driver(master, &options, &driver, &worker));
    driver.start = never_started;
    REFUSED(LW_ERROR_ARGUMENT, worker, lw_master_add_driver(master, &options, &driver, &worker));
    driver.stop = never_stopped;
    options.name = "held"; /* that of the worker that is there */
    REFUSED(LW_ERROR_NAME_TAKEN, worker, lw_master_add_driver(master, &options, &driver, &worker));
    REFUSED(LW_ERROR_ARGUMENT, worker, lw_master_add_driver(master, &options, NULL, &worker));
    REFUSED(LW_ERROR_ARGUMENT, worker, lw_master_add_driver(master, NULL, &driver, &worker));
    lw_observer *observer;
    REFUSED(LW_ERROR_ARGUMENT, observer, lw_master_observe(master, 1, NULL, NULL, never_released, &observer));

    /* Files and addresses that cannot be. */
    GROWING(lw_master_options, settings);
    settings.journal = "/nowhere/at/all";
    REFUSED(LW_ERROR_SYSTEM, made, lw_master_new(&settings, &made));
    settings.journal = "/dev/null";
    REFUSED(LW_ERROR_JOURNAL, made, lw_master_new(&settings, &made));
    settings.journal = NULL;
    settings.listen = "no address";
    REFUSED_OR_LACKING(LW_ERROR_SYSTEM, made, lw_master_new(&settings, &made));
    settings.listen = NULL;
    int has_agent;
    OK(lw_has_feature("agent", &has_agent));
    if (has_agent) {
        settings.heartbeat_interval_ms = 1;
        REFUSED(LW_ERROR_ARGUMENT, made, lw_master_new(&settings, &made));
        settings.heartbeat_interval_ms = 0;
        settings.tls_key = "/dev/null";
        REFUSED(LW_ERROR_ARGUMENT, made, lw_master_new(&settings, &made));
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
    numbers_without_an_end();

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
