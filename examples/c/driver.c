/*
 * A kind of worker written in C: each instance is a directory of its own, made by start and removed by stop.
 *
 * It submits some builds, does their work on the leased instance, follows the events, and shuts down.
 *
 *     cargo rustc --release --lib --features capi --crate-type cdylib
 *     cc -std=c99 -Wall -Wextra -Iinclude examples/c/driver.c -Ltarget/release -llatent_worker -o driver
 *     LD_LIBRARY_PATH=target/release ./driver
 */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "latent_worker.h"

/* What the driver knows of an instance; its address is what the library hands back. */
typedef struct instance {
    char directory[64];
    char flavour[32];
} instance;

static int check(const char *what, lw_code code)
{
    if (code != LW_OK) {
        fprintf(stderr, "%s: error %d: %s\n", what, (int)code, lw_last_error_message());
    }
    return code == LW_OK;
}

static const char *value_of(const lw_property *properties, size_t count, const char *name, const char *otherwise)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(properties[i].name, name) == 0) {
            return properties[i].value;
        }
    }
    return otherwise;
}

static int32_t fail(int32_t answer, const char *reason)
{
    lw_set_reason(reason);
    return answer;
}

static int32_t start(void *context, lw_start *call, const lw_start_request *request, void **made)
{
    (void)context;
    const char *flavour = value_of(request->properties, request->property_count, "flavour", "plain");
    if (strlen(flavour) >= sizeof((instance *)0)->flavour) {
        return fail(LW_ANSWER_CANNOT, "the flavour has too long a name");
    }
    /* The key belongs to this attempt alone: reclaim finds the directory by it. */
    char directory[64];
    snprintf(directory, sizeof directory, "/tmp/c-driver-%s", request->key);
    if (lw_start_record(call, directory) != LW_OK) {
        return fail(LW_ANSWER_FAILED, lw_last_error_message());
    }
    lw_start_progress(call, "making a directory");
    if (mkdir(directory, 0700) != 0) {
        return fail(LW_ANSWER_FAILED, "mkdir has failed");
    }
    instance *self = (instance *)calloc(1, sizeof *self);
    if (self == NULL) {
        rmdir(directory);
        return fail(LW_ANSWER_NO_CAPACITY, "no memory");
    }
    strcpy(self->directory, directory);
    strcpy(self->flavour, flavour);

    /* A real driver starts something whose agent connects to request->agent_address with request->secret. Here the
     * work is done by this process, and so is the agent: whoever has the lease gets at the instance through it. */
    lw_agent agent;
    memset(&agent, 0, sizeof agent);
    agent.size = sizeof agent;
    agent.context = strdup(directory); /* a lease may outlive the instance */
    agent.release = free;
    if (agent.context == NULL || lw_start_attach(call, &agent, NULL) != LW_OK) {
        free(agent.context);
        rmdir(directory);
        free(self);
        return fail(LW_ANSWER_FAILED, "the agent was not attached");
    }
    lw_start_detail(call, directory);
    *made = self;
    return LW_ANSWER_OK;
}

static int32_t stop(void *context, lw_stop *call, const lw_stop_request *request)
{
    (void)call;
    (void)context;
    instance *self = (instance *)request->instance;
    if (self == NULL) {
        return LW_ANSWER_OK; /* start removes what it has made when it fails */
    }
    char path[80];
    snprintf(path, sizeof path, "%s/result", self->directory);
    unlink(path);
    int failed = rmdir(self->directory);
    free(self);
    return failed ? fail(LW_ANSWER_FAILED, "rmdir has failed") : 0;
}

static int32_t compatible(void *context, void *instance_, const lw_property *properties, size_t count)
{
    (void)context;
    const instance *self = (const instance *)instance_;
    const char *wanted = value_of(properties, count, "flavour", "plain");
    return strcmp(self->flavour, wanted) == 0 ? LW_ANSWER_OK : LW_ANSWER_NO;
}

/* What an earlier process, killed in the middle, has left behind. */
static int32_t reclaim(void *context, lw_reclaim *call, const lw_leftover *leftover)
{
    (void)context;
    (void)call;
    for (size_t i = 0; i < leftover->id_count; i++) {
        char path[80];
        snprintf(path, sizeof path, "%s/result", leftover->ids[i]);
        unlink(path);
        if (rmdir(leftover->ids[i]) != 0 && access(leftover->ids[i], F_OK) == 0) {
            return fail(LW_ANSWER_FAILED, "rmdir has failed");
        }
    }
    return LW_ANSWER_OK;
}

static void tell(void *context, const lw_event *event)
{
    fprintf((FILE *)context, "%6.3f s  %s\n", (double)event->at_ns / 1e9, event->text);
}

/* The work of one build: it writes a file into the directory of its instance. */
static lw_code work(lw_lease *lease, const char *text)
{
    void *context;
    lw_code code = lw_lease_agent(lease, &context);
    if (code != LW_OK) {
        return code;
    }
    char path[80];
    snprintf(path, sizeof path, "%s/result", (const char *)context);
    FILE *file = fopen(path, "w");
    int written = file != NULL && fputs(text, file) >= 0;
    if (file != NULL && fclose(file) != 0) {
        written = 0;
    }
    return lw_lease_finish(lease, written ? LW_RESULT_SUCCEEDED : LW_RESULT_FAILED, written ? NULL : "cannot write");
}

int main(int argc, char **argv)
{
    uint32_t version;
    if (!check("version", lw_abi_version(&version)) || version != LW_ABI_VERSION) {
        fprintf(stderr, "the library has another ABI than the header\n");
        return 1;
    }

    lw_master_options settings;
    memset(&settings, 0, sizeof settings);
    settings.size = sizeof settings;
    settings.journal = argc > 1 ? argv[1] : NULL;
    lw_master *master;
    lw_observer *observer;
    if (!check("master", lw_master_new(&settings, &master))) {
        return 1;
    }
    if (!check("observe", lw_master_observe(master, 1000, tell, stdout, NULL, &observer))) {
        return 1;
    }

    lw_driver driver;
    memset(&driver, 0, sizeof driver);
    driver.size = sizeof driver;
    driver.start = start;
    driver.stop = stop;
    driver.compatible = compatible;
    driver.reclaim = reclaim;
    int failed = 0;
    for (int i = 0; i < 2; i++) {
        char name[16];
        snprintf(name, sizeof name, "c-%d", i + 1);
        lw_worker_options options;
        memset(&options, 0, sizeof options);
        options.size = sizeof options;
        options.name = name;
        failed |= !check("worker", lw_master_add_driver(master, &options, &driver, NULL));
    }

    lw_ticket *tickets[6];
    for (int i = 0; i < 6; i++) {
        lw_property flavour = {"flavour", i % 2 == 0 ? "sweet" : "sour"};
        char name[16];
        snprintf(name, sizeof name, "build %d", i + 1);
        lw_build build;
        memset(&build, 0, sizeof build);
        build.size = sizeof build;
        build.name = name;
        build.properties = &flavour;
        build.property_count = 1;
        tickets[i] = NULL;
        failed |= !check("submit", lw_master_submit(master, &build, &tickets[i]));
    }
    for (int i = 0; i < 6; i++) {
        lw_lease *lease;
        if (check("wait", lw_ticket_wait(tickets[i], 60000, &lease))) {
            failed |= !check("work", work(lease, "done\n"));
        } else {
            failed = 1;
        }
        lw_ticket_free(tickets[i]);
    }

    const lw_report *report;
    failed |= !check("shutdown", lw_master_shutdown(master, LW_SHUTDOWN_GRACEFUL, 60000, &report));
    if (report != NULL) {
        puts(report->text);
    }
    lw_free(report);
    lw_observer_free(observer);
    lw_master_free(master);
    return failed;
}
