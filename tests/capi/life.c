/* Everything as it should be used: local workers, tickets, an inbox with its descriptor, commands, files, events,
 * statuses, retry, cancel, time-outs, shutdown. */
#define _POSIX_C_SOURCE 200809L
#include <poll.h>
#include <pthread.h>
#include <unistd.h>

#include "common.h"

static lw_worker *add_local(lw_master *master, const char *name, const char *label)
{
    GROWING(lw_worker_options, options);
    options.name = name;
    options.labels = &label;
    options.label_count = label != NULL;
    lw_worker *worker;
    OK(lw_master_add_local(master, &options, NULL, &worker));
    return worker;
}

static int is_readable(int fd, int timeout_ms)
{
    struct pollfd polled;
    polled.fd = fd;
    polled.events = POLLIN;
    polled.revents = 0;
    int ready = poll(&polled, 1, timeout_ms);
    MUST(ready >= 0);
    return ready == 1;
}

static void *read_to_the_end(void *running)
{
    uint8_t buffer[16];
    GROWING(lw_output, output);
    lw_code code;
    do {
        code = lw_running_read((lw_running *)running, LW_FOREVER, buffer, sizeof buffer, &output);
    } while (code == LW_OK && output.stream != LW_STREAM_END);
    return NULL;
}

/* Who reads hears of the end when the lease is given back on another thread. */
static void given_back_while_somebody_reads(lw_lease *lease)
{
    GROWING(lw_command, hanging);
    hanging.shell = "echo begun; exec sleep 600";
    lw_running *running;
    OK(lw_lease_start(lease, &hanging, &running));
    uint8_t buffer[16];
    GROWING(lw_output, output);
    OK(lw_running_read(running, MINUTE, buffer, sizeof buffer, &output));
    pthread_t reader;
    MUST(pthread_create(&reader, NULL, read_to_the_end, running) == 0);
    /* One reads at a time: the second waits for the first, if that has begun. */
    EXPECT(LW_ERROR_TIMEOUT, lw_running_read(running, 100, buffer, sizeof buffer, &output));
    OK(lw_lease_finish(lease, LW_RESULT_FAILED, "on purpose"));
    MUST(pthread_join(reader, NULL) == 0);
}

static void commands(lw_lease *lease)
{
    /* Collected. */
    GROWING(lw_command, command);
    lw_property environment[2] = {{"GREETING", "hello"}, {"HOME", NULL}};
    command.shell = "read line; echo \"$GREETING $line ${HOME-nowhere}\"; echo trouble >&2; exit 3";
    command.environment = environment;
    command.environment_count = 2;
    command.input = (const uint8_t *)"world\n";
    command.input_length = 6;
    const lw_finished *finished;
    OK(lw_lease_run(lease, &command, &finished));
    MUST(finished->size == sizeof(lw_finished));
    MUST(finished->exit == LW_EXIT_CODE && finished->code == 3);
    MUST(finished->out_length == 20 && memcmp(finished->out, "hello world nowhere\n", 20) == 0);
    MUST(finished->err_length == 8 && memcmp(finished->err, "trouble\n", 8) == 0);
    OK(lw_free(finished));

    /* Of each stream the last MiB, unless another number is given. */
    GROWING(lw_command, much);
    much.shell = "head -c 1048577 /dev/zero; echo trouble >&2";
    OK(lw_lease_run(lease, &much, &finished));
    MUST(finished->out_length == 1048576 && finished->err_length == 8 && finished->dropped == 1);
    OK(lw_free(finished));
    much.keep_output = 3;
    OK(lw_lease_run(lease, &much, &finished));
    MUST(finished->out_length == 3 && finished->err_length == 3 && memcmp(finished->err, "le\n", 3) == 0);
    MUST(finished->dropped == 1048577 - 3 + 5);
    OK(lw_free(finished));

    /* Killed at a limit. */
    GROWING(lw_command, late);
    late.shell = "exec sleep 600";
    late.time_limit_ms = 1;
    OK(lw_lease_run(lease, &late, &finished));
    MUST(finished->exit == LW_EXIT_TIME_LIMIT && finished->code == -1 && finished->elapsed_ms >= 1);
    OK(lw_free(finished));
    late.time_limit_ms = 0;
    late.silence_limit_ms = 1;
    OK(lw_lease_run(lease, &late, &finished));
    MUST(finished->exit == LW_EXIT_SILENCE_LIMIT && finished->code == -1);
    OK(lw_free(finished));

    /* Streamed, into a buffer that is too small. */
    GROWING(lw_command, exec);
    const char *arguments[] = {"printf", "%s", "abcdefgh"};
    exec.arguments = arguments;
    exec.argument_count = 3;
    lw_running *running;
    OK(lw_lease_start(lease, &exec, &running));
    char read[16] = "";
    size_t length = 0;
    uint8_t buffer[3];
    GROWING(lw_output, output);
    for (;;) {
        OK(lw_running_read(running, MINUTE, buffer, sizeof buffer, &output));
        if (output.stream == LW_STREAM_END) {
            break;
        }
        MUST(output.stream == LW_STREAM_OUT && output.length >= 1 && output.length <= 3);
        MUST(length + output.length < sizeof read);
        memcpy(read + length, buffer, output.length);
        length += output.length;
    }
    MUST(output.exit == LW_EXIT_CODE && output.code == 0);
    MUST(strcmp(read, "abcdefgh") == 0);
    EXPECT(LW_ERROR_ENDED, lw_running_read(running, 0, buffer, sizeof buffer, &output));
    OK(lw_running_free(running));

    /* Nothing to read yet; then interrupted. */
    GROWING(lw_command, hanging);
    hanging.shell = "exec sleep 600";
    OK(lw_lease_start(lease, &hanging, &running));
    EXPECT(LW_ERROR_TIMEOUT, lw_running_read(running, 0, buffer, sizeof buffer, &output));
    EXPECT(LW_ERROR_TIMEOUT, lw_running_read(running, 10, buffer, sizeof buffer, &output));
    OK(lw_running_interrupt(running));
    OK(lw_running_read(running, MINUTE, buffer, sizeof buffer, &output));
    MUST(output.stream == LW_STREAM_END && output.exit == LW_EXIT_INTERRUPTED && output.code == -1);
    OK(lw_running_free(running));

    /* Killed: by itself, and by each limit. */
    GROWING(lw_command, killed);
    killed.shell = "kill -9 $$";
    OK(lw_lease_run(lease, &killed, &finished));
    MUST(finished->exit == LW_EXIT_SIGNAL && finished->code == 9);
    OK(lw_free(finished));
    killed.shell = "exec sleep 600";
    killed.time_limit_ms = 1;
    OK(lw_lease_run(lease, &killed, &finished));
    MUST(finished->exit == LW_EXIT_TIME_LIMIT && finished->code == -1);
    OK(lw_free(finished));
    killed.time_limit_ms = 0;
    killed.silence_limit_ms = 1;
    OK(lw_lease_run(lease, &killed, &finished));
    MUST(finished->exit == LW_EXIT_SILENCE_LIMIT && finished->code == -1);
    OK(lw_free(finished));

    /* What cannot be started. */
    const char *missing[] = {"/nowhere/at/all"};
    exec.arguments = missing;
    exec.argument_count = 1;
    is_not_run(lease, &exec);

    /* Files, there and back. */
    char path[] = "/tmp/lw-life-XXXXXX";
    int file = mkstemp(path);
    MUST(file >= 0 && write(file, "content", 7) == 7 && close(file) == 0);
    OK(lw_lease_write_file(lease, path, "inner", 0640));
    OK(lw_lease_write_file(lease, path, "inner", 0)); /* it keeps its mode */
    GROWING(lw_command, count);
    count.shell = "stat -c %a inner; wc -c <inner >counted";
    OK(lw_lease_run(lease, &count, &finished));
    MUST(finished->out_length == 4 && memcmp(finished->out, "640\n", 4) == 0);
    OK(lw_free(finished));
    OK(lw_lease_read_file(lease, "counted", path));
    FILE *counted = fopen(path, "r");
    int number = 0;
    MUST(counted != NULL && fscanf(counted, "%d", &number) == 1 && number == 7);
    fclose(counted);
    EXPECT(LW_ERROR_FILE, lw_lease_read_file(lease, "not there", path));
    EXPECT(LW_ERROR_FILE, lw_lease_write_file(lease, "/nowhere/at/all", "inner", 0));
    unlink(path);
}

/* What a command writes on an instance for a build with this property, or without one. */
static void says(lw_master *master, const lw_property *property, const char *line, const char *expected)
{
    GROWING(lw_build, build);
    build.name = "of a kind";
    build.properties = property;
    build.property_count = property != NULL;
    lw_ticket *ticket;
    OK(lw_master_submit(master, &build, &ticket));
    lw_lease *lease = lease_of(ticket);
    GROWING(lw_command, command);
    command.shell = line;
    const lw_finished *finished;
    OK(lw_lease_run(lease, &command, &finished));
    MUST(finished->out_length == strlen(expected) && memcmp(finished->out, expected, strlen(expected)) == 0);
    OK(lw_free(finished));
    OK(lw_lease_finish(lease, LW_RESULT_SUCCEEDED, NULL));
    OK(lw_ticket_free(ticket));
}

static void kinds(void)
{
    char template_[] = "/tmp/lw-life-XXXXXX", path[64], root[64], line[128];
    MUST(mkdtemp(template_) != NULL);
    snprintf(path, sizeof path, "%s/there", template_);
    snprintf(root, sizeof root, "%s.root", template_);
    FILE *file = fopen(path, "w");
    MUST(file != NULL && fputs("from the template\n", file) >= 0 && fclose(file) == 0);

    lw_property environment[2] = {{"GREETING", "hello"}, {"HOME", NULL}};
    lw_property chosen = {"flavour", "special"}, unknown = {"flavour", "none"}, other = {"kind", "special"};
    GROWING(lw_local_kind, kind);
    kind.name = "special";
    kind.template_directory = template_;
    kind.environment = environment;
    kind.environment_count = 2;
    const lw_local_kind *all[1];
    all[0] = &kind;
    GROWING(lw_local_options, local);
    local.root = root; /* made, for it is not there */
    local.kind_property = "flavour";
    local.kinds = all;
    local.kind_count = 1;
    GROWING(lw_worker_options, options);
    options.name = "kinds";
    lw_master *master = new_master();
    OK(lw_master_add_local(master, &options, &local, NULL));
    says(master, &chosen, "cat there; echo $GREETING ${HOME-nowhere}", "from the template\nhello nowhere\n");
    snprintf(line, sizeof line, "case $PWD in '%s'/*) ls -A; echo ${GREETING-none};; esac", root);
    says(master, NULL, line, "none\n");
    says(master, &other, line, "none\n");
    GROWING(lw_build, build);
    build.name = "of no kind";
    build.properties = &unknown;
    build.property_count = 1;
    lw_ticket *ticket;
    lw_lease *lease;
    OK(lw_master_submit(master, &build, &ticket));
    EXPECT(LW_ERROR_CANNOT_SUBSTANTIATE, lw_ticket_wait(ticket, MINUTE, &lease));
    OK(lw_ticket_free(ticket));
    OK(lw_master_shutdown(master, LW_SHUTDOWN_FAST, MINUTE, NULL));
    OK(lw_master_free(master));
    MUST(rmdir(root) == 0); /* the instances took their directories with them */

    /* The property of this name chooses by default, and a kind of that name is for builds that choose none. */
    lw_local_kind usual = kind;
    usual.name = "default";
    all[0] = &usual;
    local.root = local.kind_property = NULL;
    other.value = "default";
    master = new_master();
    OK(lw_master_add_local(master, &options, &local, NULL));
    says(master, NULL, "cat there", "from the template\n");
    says(master, &other, "cat there", "from the template\n");
    other.value = "none";
    build.properties = &other;
    OK(lw_master_submit(master, &build, &ticket));
    EXPECT(LW_ERROR_CANNOT_SUBSTANTIATE, lw_ticket_wait(ticket, MINUTE, &lease));
    OK(lw_ticket_free(ticket));
    OK(lw_master_shutdown(master, LW_SHUTDOWN_FAST, MINUTE, NULL));
    OK(lw_master_free(master));
    unlink(path);
    MUST(rmdir(template_) == 0);
}

/* The events beyond are missed, and the next one that is there counts them. */
static void a_queue_holds_no_more_than_its_capacity(size_t capacity, uint64_t holds)
{
    lw_master *master = new_master();
    lw_events *events;
    OK(lw_master_events(master, capacity, &events));
    const lw_event *event;
    for (int i = 0; i < 2; i++) { /* two events each */
        lw_ticket *ticket = submit(master, "nobody takes it");
        lw_lease *lease;
        EXPECT(LW_ERROR_NO_WORKER_FITS, lw_ticket_wait(ticket, MINUTE, &lease));
        OK(lw_ticket_free(ticket));
    }
    for (uint64_t sequence = 0; sequence < holds; sequence++) {
        OK(lw_events_take(events, 0, &event));
        MUST(event->sequence == sequence && event->missed == 0);
        OK(lw_free(event));
    }
    EXPECT(LW_ERROR_TIMEOUT, lw_events_take(events, 0, &event));
    OK(lw_ticket_free(submit(master, "nobody takes it either")));
    OK(lw_events_take(events, MINUTE, &event));
    MUST(event->sequence == 4 && event->missed == 4 - holds);
    OK(lw_free(event));
    OK(lw_events_free(events));
    OK(lw_master_free(master));
}

int main(void)
{
    kinds();
    lw_master *master = new_master();
    lw_events *events;
    OK(lw_master_events(master, 10000, &events));
    const lw_event *event;
    EXPECT(LW_ERROR_TIMEOUT, lw_events_take(events, 0, &event));
    MUST(event == NULL);
    int events_fd;
    OK(lw_events_fd(events, &events_fd));
    MUST(!is_readable(events_fd, 0));

    /* Nobody can take it. */
    lw_ticket *ticket = submit(master, "too early");
    lw_lease *lease;
    EXPECT(LW_ERROR_NO_WORKER_FITS, lw_ticket_wait(ticket, MINUTE, &lease));
    MUST(lease == NULL);
    EXPECT(LW_ERROR_ENDED, lw_ticket_wait(ticket, MINUTE, &lease));
    OK(lw_ticket_free(ticket));

    /* Events: pulled as they become readable. */
    MUST(is_readable(events_fd, MINUTE));
    OK(lw_events_take(events, MINUTE, &event));
    MUST(strcmp(event->kind, "build_queued") == 0 && event->build == 1 && event->worker == NULL);
    MUST(event->sequence == 0 && event->missed == 0 && contains(event->text, "build #1"));
    OK(lw_free(event));
    OK(lw_events_take(events, MINUTE, &event));
    MUST(strcmp(event->kind, "build_finished") == 0 && contains(event->reason, "no worker can take the build"));
    OK(lw_free(event));
    EXPECT(LW_ERROR_TIMEOUT, lw_events_take(events, 0, &event));
    while (is_readable(events_fd, 0)) { /* it may be for nothing once more */
        EXPECT(LW_ERROR_TIMEOUT, lw_events_take(events, 0, &event));
    }

    a_queue_holds_no_more_than_its_capacity(0, 1);
    a_queue_holds_no_more_than_its_capacity(2, 2);
    int has;
    OK(lw_has_feature("local", &has));
    MUST(has == 1);
    OK(lw_has_feature("no such feature", &has));
    MUST(has == 0);

    /* Workers. */
    lw_worker *worker = add_local(master, "local", "linux");
    GROWING(lw_worker_options, again);
    again.name = "local";
    EXPECT(LW_ERROR_NAME_TAKEN, lw_master_add_local(master, &again, NULL, NULL));
    lw_worker *same;
    OK(lw_master_worker(master, "local", &same));
    OK(lw_worker_free(same));
    EXPECT(LW_ERROR_ENDED, lw_master_worker(master, "nobody", &same));

    /* A paused worker takes nothing: poll, status, time-out. */
    OK(lw_worker_pause(worker));
    ticket = submit(master, "first");
    EXPECT(LW_ERROR_TIMEOUT, lw_ticket_wait(ticket, 0, &lease));
    EXPECT(LW_ERROR_TIMEOUT, lw_ticket_wait(ticket, 10, &lease));
    uint64_t number;
    OK(lw_ticket_build(ticket, &number));
    MUST(number == 2);
    const char *json;
    OK(lw_master_build_status(master, number, &json));
    MUST(contains(json, "\"state\":\"waiting\"") && contains(json, "\"reason\":\"paused\",\"workers\":1"));
    OK(lw_free(json));
    OK(lw_master_queue(master, NULL, 10, &json));
    MUST(contains(json, "\"total\":1") && contains(json, "\"name\":\"first\"") && contains(json, "\"next\":null"));
    OK(lw_free(json));
    OK(lw_master_queue(master, NULL, 0, &json));
    MUST(contains(json, "\"waiting\":[]") && contains(json, "\"next\":\"0.2\""));
    OK(lw_free(json));
    OK(lw_master_queue(master, "0.2", 1, &json));
    MUST(contains(json, "\"name\":\"first\""));
    OK(lw_free(json));
    OK(lw_worker_status(worker, &json));
    MUST(contains(json, "\"paused\":true"));
    OK(lw_free(json));
    OK(lw_worker_unpause(worker));

    /* A lease, and the build in it. */
    lease = lease_of(ticket);
    const lw_lease_info *info;
    OK(lw_lease_get_info(lease, &info));
    MUST(info->build == 2 && strcmp(info->build_name, "first") == 0 && strcmp(info->worker, "local") == 0);
    MUST(info->epoch == 1);
    OK(lw_free(info));
    EXPECT(LW_ERROR_TIMEOUT, lw_lease_wait_end(lease, 0));
    EXPECT(LW_ERROR_TIMEOUT, lw_lease_wait_end(lease, 10));
    commands(lease);
    void *context;
    EXPECT(LW_ERROR_UNSUPPORTED, lw_lease_agent(lease, &context));

    /* Retried: the next answer comes to the same ticket. */
    OK(lw_lease_retry(lease, "once more"));
    EXPECT(LW_ERROR_HANDLE, lw_lease_wait_end(lease, 0));
    lease = lease_of(ticket);

    /* Retired: the same, from another instance. */
    OK(lw_lease_retire(lease, "its disk is full"));
    EXPECT(LW_ERROR_HANDLE, lw_lease_wait_end(lease, 0));
    lease = lease_of(ticket);
    OK(lw_lease_get_info(lease, &info));
    MUST(info->epoch == 2);
    OK(lw_free(info));
    OK(lw_lease_finish(lease, LW_RESULT_SUCCEEDED, "no failure needs no reason"));
    EXPECT(LW_ERROR_ENDED, lw_ticket_wait(ticket, MINUTE, &lease));
    OK(lw_ticket_cancel(ticket)); /* of a build that has ended */
    OK(lw_ticket_free(ticket));

    /* Cancelled while it runs: the lease ends, and the command with it. */
    ticket = submit(master, "cancelled");
    lease = lease_of(ticket);
    GROWING(lw_command, hanging);
    hanging.shell = "exec sleep 600";
    lw_running *running;
    OK(lw_lease_start(lease, &hanging, &running));
    OK(lw_ticket_cancel(ticket));
    EXPECT(LW_ERROR_CANCELLED, lw_lease_wait_end(lease, MINUTE));
    uint8_t buffer[16];
    GROWING(lw_output, output);
    EXPECT(LW_ERROR_CANCELLED, lw_running_read(running, MINUTE, buffer, sizeof buffer, &output));
    EXPECT(LW_ERROR_ENDED, lw_running_read(running, MINUTE, buffer, sizeof buffer, &output));
    const lw_finished *finished;
    EXPECT(LW_ERROR_CANCELLED, lw_lease_run(lease, &hanging, &finished));
    lw_lease *none;
    EXPECT(LW_ERROR_CANCELLED, lw_ticket_wait(ticket, MINUTE, &none));
    EXPECT(LW_ERROR_ENDED, lw_ticket_wait(ticket, MINUTE, &none));
    OK(lw_lease_free(lease));
    EXPECT(LW_ERROR_HANDLE, lw_running_read(running, 0, buffer, sizeof buffer, &output));
    OK(lw_ticket_free(ticket));

    /* An inbox. Its builds are known by their numbers; the wrong ones by an error. */
    lw_inbox *inbox;
    OK(lw_inbox_new(&inbox));
    int inbox_fd;
    OK(lw_inbox_fd(inbox, &inbox_fd));
    MUST(!is_readable(inbox_fd, 0));
    uint64_t answered, good, bad;
    EXPECT(LW_ERROR_TIMEOUT, lw_inbox_take(inbox, 0, &answered, &lease));
    MUST(answered == 0 && lease == NULL);
    GROWING(lw_build, build);
    build.name = "in the inbox";
    const char *label = "linux", *unknown = "plan9";
    build.labels = &label;
    build.label_count = 1;
    OK(lw_master_submit_to(master, &build, inbox, &good));
    MUST(is_readable(inbox_fd, MINUTE));
    OK(lw_inbox_take(inbox, MINUTE, &answered, &lease));
    MUST(answered == good);
    given_back_while_somebody_reads(lease);
    build.labels = &unknown;
    OK(lw_master_submit_to(master, &build, inbox, &bad));
    MUST(is_readable(inbox_fd, MINUTE));
    EXPECT(LW_ERROR_NO_WORKER_FITS, lw_inbox_take(inbox, MINUTE, &answered, &lease));
    MUST(answered == bad && lease == NULL && contains(lw_last_error_message(), "plan9"));
    EXPECT(LW_ERROR_ENDED, lw_master_cancel(master, bad));
    EXPECT(LW_ERROR_ENDED, lw_master_build_status(master, bad, &json));

    /* Freed: a build that waits ends, and one that has its lease goes on, but is not retried. */
    uint64_t runs, waits;
    build.labels = &label;
    OK(lw_master_submit_to(master, &build, inbox, &runs));
    OK(lw_inbox_take(inbox, MINUTE, &answered, &lease));
    OK(lw_master_submit_to(master, &build, inbox, &waits));
    EXPECT(LW_ERROR_TIMEOUT, lw_inbox_take(inbox, 0, &answered, &none));
    OK(lw_inbox_free(inbox));
    EXPECT(LW_ERROR_ENDED, lw_master_build_status(master, waits, &json));
    EXPECT(LW_ERROR_TIMEOUT, lw_lease_wait_end(lease, 0));
    OK(lw_lease_retry(lease, "nobody waits for that"));
    EXPECT(LW_ERROR_ENDED, lw_master_build_status(master, runs, &json));

    /* So does a ticket. */
    uint64_t dropped;
    ticket = submit(master, "dropped");
    OK(lw_ticket_build(ticket, &dropped));
    lease = lease_of(ticket);
    OK(lw_ticket_free(ticket));
    EXPECT(LW_ERROR_TIMEOUT, lw_lease_wait_end(lease, 0));
    OK(lw_lease_free(lease));
    EXPECT(LW_ERROR_ENDED, lw_master_build_status(master, dropped, &json));

    /* A build with a limit of attempts. */
    GROWING(lw_build, limited);
    limited.name = "limited";
    limited.max_attempts = 1;
    OK(lw_master_submit(master, &limited, &ticket));
    lease = lease_of(ticket);
    OK(lw_lease_retry(lease, "the first and the last time"));
    EXPECT(LW_ERROR_ATTEMPTS_EXHAUSTED, lw_ticket_wait(ticket, MINUTE, &lease));
    MUST(contains(lw_last_error_message(), "the first and the last time"));
    OK(lw_ticket_free(ticket));

    /* The higher priority goes first, the older build among equals. The lease says that the build was given up. */
    OK(lw_worker_pause(worker));
    lw_ticket *low[2], *high;
    for (int i = 0; i < 2; i++) {
        low[i] = submit(master, "low");
    }
    GROWING(lw_build, urgent);
    urgent.name = "urgent";
    urgent.priority = 1;
    OK(lw_master_submit(master, &urgent, &high));
    uint64_t given_up;
    OK(lw_ticket_build(high, &given_up));
    OK(lw_worker_unpause(worker));
    lease = lease_of(high);
    lw_lease *other;
    EXPECT(LW_ERROR_TIMEOUT, lw_ticket_wait(low[0], 0, &other));
    OK(lw_lease_finish(lease, LW_RESULT_CANCELLED, NULL));
    lease = lease_of(low[0]);
    EXPECT(LW_ERROR_TIMEOUT, lw_ticket_wait(low[1], 0, &other));
    MUST(other == NULL);
    OK(lw_lease_finish(lease, LW_RESULT_SUCCEEDED, NULL));
    OK(lw_lease_finish(lease_of(low[1]), LW_RESULT_SUCCEEDED, NULL));
    OK(lw_ticket_free(high));
    for (int i = 0; i < 2; i++) {
        OK(lw_ticket_free(low[i]));
    }

    /* Stopped on request. */
    OK(lw_worker_insubstantiate(worker, 0, MINUTE));
    OK(lw_worker_insubstantiate(worker, 0, 0)); /* there is none any more */
    OK(lw_master_status(master, &json));
    MUST(contains(json, "\"state\":\"not_substantiated\"") && contains(json, "\"journal_damage\":null"));
    OK(lw_free(json));

    /* A shutdown that is late says what it waits for; then it is fast. */
    ticket = submit(master, "held");
    lease = lease_of(ticket);
    const lw_report *report;
    EXPECT(LW_ERROR_TIMEOUT, lw_master_shutdown(master, LW_SHUTDOWN_GRACEFUL, 0, NULL));
    EXPECT(LW_ERROR_TIMEOUT, lw_lease_wait_end(lease, 0));
    EXPECT(LW_ERROR_TIMEOUT, lw_master_shutdown(master, LW_SHUTDOWN_GRACEFUL, 10, &report));
    MUST(!report->complete && contains(report->text, "local") && contains(report->json, "\"in_flight\":[{"));
    OK(lw_free(report));
    OK(lw_master_shutdown(master, LW_SHUTDOWN_FAST, MINUTE, &report));
    MUST(report->complete && contains(report->json, "\"complete\":true"));
    OK(lw_free(report));
    OK(lw_master_shutdown(master, LW_SHUTDOWN_GRACEFUL, 0, NULL)); /* it is done already */
    EXPECT(LW_ERROR_LEASE_STOPPED, lw_lease_wait_end(lease, 0));
    OK(lw_lease_free(lease));
    OK(lw_ticket_free(ticket));
    lw_ticket *late = submit(master, "too late");
    EXPECT(LW_ERROR_SHUT_DOWN, lw_ticket_wait(late, MINUTE, &lease));
    OK(lw_ticket_free(late));
    again.name = "too late";
    EXPECT(LW_ERROR_SHUT_DOWN, lw_master_add_local(master, &again, NULL, NULL));

    OK(lw_worker_free(worker));
    OK(lw_master_free(master));
    /* What is still in the queue comes, and then the end. */
    lw_code code;
    uint64_t sequence = 2, at_ns = 0;
    int results = 0;
    while ((code = lw_events_take(events, MINUTE, &event)) == LW_OK) {
        MUST(event->sequence == sequence++ && event->missed == 0 && event->at_ns >= at_ns);
        at_ns = event->at_ns;
        MUST(strchr(event->text, '\n') == NULL && (event->worker == NULL || strcmp(event->worker, "local") == 0));
        MUST((event->result != NULL) == (strcmp(event->kind, "build_finished") == 0));
        results += event->build == 2 && event->result != NULL && strcmp(event->result, "succeeded") == 0 &&
                   event->reason == NULL;
        results += event->build == 3 && event->result != NULL && strcmp(event->result, "cancelled") == 0;
        results += event->build == given_up && event->result != NULL && strcmp(event->result, "cancelled") == 0;
        results += event->build == good && event->result != NULL && strcmp(event->result, "failed") == 0 &&
                   strcmp(event->reason, "on purpose") == 0;
        results += (event->build == runs || event->build == waits) && event->result != NULL &&
                   strcmp(event->result, "cancelled") == 0;
        results += event->build == dropped && event->result != NULL && strcmp(event->result, "dropped") == 0;
        OK(lw_free(event));
    }
    MUST(code == LW_ERROR_ENDED);
    MUST(results == 7);
    MUST(is_readable(events_fd, MINUTE));
    OK(lw_events_free(events));
    NOTHING_IS_LEFT();
    puts("life: all as it should be");
    return 0;
}
