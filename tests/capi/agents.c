/* Agents that are processes of their own and attach over loopback, and instances that are made by programs: the drivers
 * `process` and `command`, with the agent whose path is the first argument. */
#define _POSIX_C_SOURCE 200809L
#include <unistd.h>

#include "common.h"

static void build_on(lw_master *master, const char *label)
{
    GROWING(lw_build, build);
    build.name = label;
    build.labels = &label;
    build.label_count = 1;
    build.max_attempts = 1;
    lw_ticket *ticket;
    OK(lw_master_submit(master, &build, &ticket));
    lw_lease *lease = lease_of(ticket);
    GROWING(lw_command, command);
    command.shell = "echo from afar; exit 5";
    const lw_finished *finished;
    OK(lw_lease_run(lease, &command, &finished));
    MUST(finished->exit == LW_EXIT_CODE && finished->code == 5);
    MUST(finished->out_length == 10 && memcmp(finished->out, "from afar\n", 10) == 0);
    OK(lw_free(finished));
    OK(lw_lease_finish(lease, LW_RESULT_SUCCEEDED, NULL));
    OK(lw_ticket_free(ticket));
}

/* A driver is told where agents connect to. */
static int32_t start_told(void *context, lw_start *call, const lw_start_request *request, void **instance)
{
    (void)call, (void)instance;
    MUST(strcmp(request->agent_address, (const char *)context) == 0);
    OK(lw_set_reason("it was told"));
    return LW_ANSWER_CANNOT;
}

static int32_t stop_told(void *context, lw_stop *call, const lw_stop_request *request)
{
    (void)call;
    (void)context;
    MUST(!request->has_instance);
    return LW_ANSWER_OK;
}

static void is_told(lw_master *master, const char *address)
{
    GROWING(lw_driver, driver);
    driver.context = (void *)(size_t)address;
    driver.start = start_told;
    driver.stop = stop_told;
    GROWING(lw_worker_options, options);
    const char *label = "told";
    options.name = label;
    options.labels = &label;
    options.label_count = 1;
    OK(lw_master_add_driver(master, &options, &driver, NULL));
    GROWING(lw_build, build);
    build.name = label;
    build.labels = &label;
    build.label_count = 1;
    lw_ticket *ticket;
    OK(lw_master_submit(master, &build, &ticket));
    lw_lease *lease;
    EXPECT(LW_ERROR_CANNOT_SUBSTANTIATE, lw_ticket_wait(ticket, MINUTE, &lease));
    MUST(contains(lw_last_error_message(), "it was told"));
    OK(lw_ticket_free(ticket));
}

int main(int argc, char **argv)
{
    MUST(argc == 2);
    GROWING(lw_master_options, settings);
    settings.listen = "127.0.0.1:0";
    settings.heartbeat_interval_ms = 5000;
    settings.heartbeat_timeout_ms = 20000;
    settings.handshake_timeout_ms = 10000;
    settings.write_timeout_ms = 10000;
    lw_master *master;
    OK(lw_master_new(&settings, &master));
    const char *address;
    OK(lw_master_address(master, &address));
    MUST(strncmp(address, "127.0.0.1:", 10) == 0 && atoi(address + 10) > 0);
    is_told(master, address);
    /* Unless it is to tell another address. */
    settings.agent_address = "builds.example:7";
    lw_master *elsewhere;
    OK(lw_master_new(&settings, &elsewhere));
    is_told(elsewhere, settings.agent_address);
    OK(lw_master_free(elsewhere));

    char folder[] = "/tmp/lw-agents-XXXXXX", made_by[128];
    MUST(mkdtemp(folder) != NULL);
    GROWING(lw_process_options, process);
    const char *agent[] = {argv[1], "--follow-stdin", folder};
    process.agent = agent;
    process.agent_count = 3;
    process.secret_in_file = 1;
    process.private_directory = 1;
    GROWING(lw_worker_options, options);
    const char *label = "process";
    options.name = "process";
    options.labels = &label;
    options.label_count = 1;
    lw_worker *worker;
    OK(lw_master_add_process(master, &options, &process, &worker));
    OK(lw_worker_free(worker));
    build_on(master, "process");

    GROWING(lw_command_options, command);
    snprintf(made_by, sizeof made_by, "'%s' '%s' >/dev/null 2>&1 & echo $!", argv[1], folder);
    const char *start[] = {"/bin/sh", "-c", made_by};
    const char *stop[] = {"/bin/sh", "-c", "kill $LATENT_WORKER_INSTANCE"};
    const char *check[] = {"/bin/sh", "-c", "kill -0 $LATENT_WORKER_INSTANCE"};
    command.start = start;
    command.start_count = 3;
    command.stop = stop;
    command.stop_count = 3;
    command.check = check;
    command.check_count = 3;
    options.name = label = "command";
    OK(lw_master_add_command(master, &options, &command, NULL));
    build_on(master, "command");

    /* Programs that are none. */
    options.name = "neither";
    command.start_count = 0;
    EXPECT(LW_ERROR_ARGUMENT, lw_master_add_command(master, &options, &command, NULL));
    process.agent_count = 0;
    EXPECT(LW_ERROR_ARGUMENT, lw_master_add_process(master, &options, &process, NULL));
    EXPECT(LW_ERROR_UNSUPPORTED, lw_master_add_docker(master, &options, "{}", NULL));
    EXPECT(LW_ERROR_UNSUPPORTED, lw_master_add_ec2(master, &options, "{}", NULL));

    OK(lw_master_shutdown(master, LW_SHUTDOWN_GRACEFUL, MINUTE, NULL));
    OK(lw_master_free(master));
    OK(lw_free(address));
    rmdir(folder);
    NOTHING_IS_LEFT();
    puts("agents: came, worked and went");
    return 0;
}
