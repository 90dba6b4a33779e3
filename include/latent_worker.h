/*
 * latent-worker: workers that do not exist until work needs them.
 *
 * Generated from the sources of the library; do not edit.
 *
 * RULES
 *
 * Codes. Every function returns an lw_code, except lw_last_error_message, which returns a text. A function stores its
 * results where its last arguments point to. After an error they are NULL or 0, and a file descriptor is -1, unless the
 * function's documentation says otherwise; LW_ERROR_FORKED leaves them as they were. lw_last_error_message() says more
 * about the last error on the same thread. Codes never change their meaning; treat one that you do not know as a
 * failure.
 *
 * Handles. What a function makes is a handle, typed as a pointer to a structure that has no fields. It is no address:
 * pass it on and do not look behind it. Each kind has a function to free it, except four that callbacks are passed:
 * lw_start, lw_stop and lw_reclaim end when the callback returns, lw_process with lw_process_end or lw_process_fail. Handles may
 * be used on any thread, also by several at once, unless a function's documentation says otherwise. One may be freed
 * while another thread uses it: that call goes on to its end. A call with a handle that is NULL, freed or of another
 * kind fails with LW_ERROR_HANDLE and does nothing; only to free NULL is no error. Handles may be freed in any order.
 *
 * Texts and structures that are given out through a pointer to const belong to the library: read them, on any thread,
 * and free each once with lw_free. Two are not to be freed: the text of lw_last_error_message, and what a callback is
 * passed, which lives until the callback returns.
 *
 * Texts that are passed in are UTF-8 with a NUL at the end, and bytes come with a length. A list has at most
 * 65536 items, and bytes at most 1 GiB. Nothing that is passed in is kept: it may go when the call returns. Only
 * functions to call back and contexts (void *context) are kept, until `release` is called.
 *
 * Structures that begin with `size` may grow. In those that you fill, set all of it to zero first and `size` to sizeof;
 * zero means the default, for all fields that need not be set. In those that you are given, look at no field that lies
 * beyond `size`.
 *
 * Times are in milliseconds, unless the name of a field ends with _ns; LW_FOREVER is no limit.
 *
 * Callbacks run on threads of the library or within calls of yours, as their documentation says, some at the same
 * time. They may call any function of this header. lw_master_shutdown, lw_master_free and lw_worker_insubstantiate do
 * not wait within a callback; whatever else blocks does, so do not wait for what cannot come before the callback
 * returns. They must return: no exception, longjmp or pthread_exit may leave them. The library's threads have 2 MiB of
 * stack. A callback may run before the call that causes it has stored its handle, and an observer's callback may still
 * begin just after lw_observer_free has returned. `release` is called exactly once, on any thread, perhaps within a
 * call of yours; it is not called when the call that was to take over the context has failed.
 *
 * Nothing unwinds out of a function: a panic of the library, which is a defect, is LW_ERROR_PANIC.
 *
 * Interpreters: release the interpreter's lock around calls whose documentation says "blocks". All others return soon.
 *
 * Fork. In a process that was forked after the library had been used, every function returns LW_ERROR_FORKED and does
 * nothing. Exec or end it: as long as it lives it holds the journal and the port of its parent. One that was forked
 * within a callback and returns from it is aborted.
 *
 * The process. The library starts child processes and waits for them: do not ignore SIGCHLD, and wait for no children
 * but your own (no waitpid(-1)). Do not change the environment (setenv) while other threads are in the library, do not
 * call it from a signal handler, cancel no thread that is in a call, and do not unload it (dlclose): its threads run
 * in it.
 */


#ifndef LATENT_WORKER_H
#define LATENT_WORKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// The version of the ABI that this header describes. It changes when something that was there works differently; new
// functions, codes and fields at the end of structures do not change it.
#define LW_ABI_VERSION 1

// To wait without a limit.
#define LW_FOREVER UINT64_MAX

// What a call returns. The numbers never change, and none is used again; later versions may add some.
enum lw_code
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // It has done what it was asked for.
  LW_OK = 0,
  // An argument makes no sense: NULL where something is needed, not UTF-8, a length or a number out of range.
  LW_ERROR_ARGUMENT = 1,
  // The handle is NULL, freed, of another kind, or used on a thread where it may not be used; or lw_free is passed
  // what the library has not given out.
  LW_ERROR_HANDLE = 2,
  // This process was forked after the library had been used in its parent.
  LW_ERROR_FORKED = 3,
  // A defect of the library: it panicked. lw_last_error_message() has the panic's message.
  LW_ERROR_PANIC = 4,
  // The time given to wait is over. Nothing is undone: what was waited for goes on, and may be waited for again.
  LW_ERROR_TIMEOUT = 5,
  // This build of the library, this system, or this kind of agent cannot do that.
  LW_ERROR_UNSUPPORTED = 6,
  // The system refuses something: a file, an address, a thread.
  LW_ERROR_SYSTEM = 7,
  // The journal cannot be used: it is in use by another master, is not a journal, or was written by a later version.
  // Or an id cannot be recorded.
  LW_ERROR_JOURNAL = 8,
  // There is a worker of that name already.
  LW_ERROR_NAME_TAKEN = 9,
  // The master is shutting down.
  LW_ERROR_SHUT_DOWN = 10,
  // The build, or the start, the reclaim or the command that a callback is for, was cancelled.
  LW_ERROR_CANCELLED = 11,
  // No worker of this master offers all labels that the build needs.
  LW_ERROR_NO_WORKER_FITS = 12,
  // The driver says that the build asks for what can never be; it is the build's own fault.
  LW_ERROR_CANNOT_SUBSTANTIATE = 13,
  // As many attempts at the build have failed as its max_attempts allows.
  LW_ERROR_ATTEMPTS_EXHAUSTED = 14,
  // There is nothing, or nothing more: the build has ended or is unknown, the command has ended, no event follows,
  // there is no such worker, leftover or address, another thread has freed what this call waits on.
  LW_ERROR_ENDED = 15,
  // The lease has ended because the connection to its agent was lost: retry the build.
  LW_ERROR_LEASE_LOST = 16,
  // The lease has ended because its instance is stopped without waiting for builds.
  LW_ERROR_LEASE_STOPPED = 17,
  // The agent could not start or run the command, or does not know how it has ended.
  LW_ERROR_COMMAND = 18,
  // A file could not be copied.
  LW_ERROR_FILE = 19,
  // The agent was not let in: its attempt has ended, or an agent is attached already.
  LW_ERROR_ATTACH = 20,
  // The stop that a callback is for is a fast one, or has become one: end the instance without more grace.
  LW_ERROR_HURRIED = 21,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum lw_code lw_code;
#else
typedef int32_t lw_code;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// How a command ended.
enum lw_exit
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // By itself; `code` is its exit code.
  LW_EXIT_CODE = 0,
  // By a signal that was not ours; `code` is its number.
  LW_EXIT_SIGNAL = 1,
  // It was killed because it ran longer than its time limit.
  LW_EXIT_TIME_LIMIT = 2,
  // It was killed because it wrote nothing for longer than its limit.
  LW_EXIT_SILENCE_LIMIT = 3,
  // It was killed because somebody asked for it.
  LW_EXIT_INTERRUPTED = 4,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum lw_exit lw_exit;
#else
typedef int32_t lw_exit;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What the callbacks of a driver or an agent return. Any other number, and an answer that a callback does not have,
// counts as LW_ANSWER_FAILED. A failure of a start other than LW_ANSWER_CANNOT is a failed attempt of its build, which
// pauses and then prefers other workers. The worker goes into quarantine unless the build or its kind is to blame.
enum lw_answer
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // start: the instance runs. stop: it is gone. check: it looks well. compatible: it fits. kind: it was said. reclaim:
  // nothing is left. start_command: the command was started.
  LW_ANSWER_OK = 0,
  // It did not work. start: an infrastructure failure. compatible: as LW_ANSWER_NO. kind: as LW_ANSWER_CANNOT.
  LW_ANSWER_FAILED = 1,
  // start: the build asks for what can never be; it ends with LW_ERROR_CANNOT_SUBSTANTIATE, without retry or
  // quarantine. kind: the same, unless another driver can make an instance for the build.
  LW_ANSWER_CANNOT = 2,
  // start: the provider has none left of what was asked for.
  LW_ANSWER_NO_CAPACITY = 3,
  // start: the account may not have more.
  LW_ANSWER_NO_QUOTA = 4,
  // start: too many requests; see lw_start_retry_after.
  LW_ANSWER_THROTTLED = 5,
  // start: the credentials are missing, wrong or expired.
  LW_ANSWER_BAD_CREDENTIALS = 6,
  // compatible: the instance does not fit the build.
  LW_ANSWER_NO = 7,
  // reclaim: nothing is there now, but something may still come.
  LW_ANSWER_PENDING = 8,
  // reclaim: this driver has no means to find out. start_command: this agent runs no commands.
  LW_ANSWER_UNSUPPORTED = 9,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum lw_answer lw_answer;
#else
typedef int32_t lw_answer;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// How a build went, as the holder of its lease says.
enum lw_result
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // The work succeeded.
  LW_RESULT_SUCCEEDED = 0,
  // The work failed.
  LW_RESULT_FAILED = 1,
  // The build was given up.
  LW_RESULT_CANCELLED = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum lw_result lw_result;
#else
typedef int32_t lw_result;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What comes from a running command.
enum lw_stream
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // Bytes of its standard output.
  LW_STREAM_OUT = 1,
  // Bytes of its standard error.
  LW_STREAM_ERR = 2,
  // It has ended; nothing follows.
  LW_STREAM_END = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum lw_stream lw_stream;
#else
typedef int32_t lw_stream;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// When an attached instance without work is stopped.
enum lw_idle
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // After idle_ms without work, also when it never had any.
  LW_IDLE_AFTER = 0,
  // As soon as no build uses it after its first one: with max_builds 1 every build has a fresh instance. One that had
  // no build yet waits 10 minutes.
  LW_IDLE_AFTER_BUILD = 1,
  // Not because it is idle, but on request, when it fails, to make room for an instance of another kind, and at
  // shutdown. When it loses its agent between builds, it waits missing_timeout_ms for the agent to attach again;
  // while a build waits, the reattach_timeout_ms of the master.
  LW_IDLE_NEVER = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum lw_idle lw_idle;
#else
typedef int32_t lw_idle;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// How a shutdown treats running builds.
enum lw_shutdown
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // They are waited for, and then the instances are stopped with grace.
  LW_SHUTDOWN_GRACEFUL = 0,
  // Their leases end with LW_ERROR_LEASE_STOPPED, and the instances are stopped with `fast` set.
  LW_SHUTDOWN_FAST = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum lw_shutdown lw_shutdown;
#else
typedef int32_t lw_shutdown;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// An agent's side of being attached.
typedef struct lw_attachment lw_attachment;

// A queue of events.
typedef struct lw_events lw_events;

// One place for the answers to many builds, with a file descriptor for event loops.
typedef struct lw_inbox lw_inbox;

// The right of one build to use one attached instance.
typedef struct lw_lease lw_lease;

// Workers, and the queue of builds that wait for them.
typedef struct lw_master lw_master;

// A callback that is called with events.
typedef struct lw_observer lw_observer;

// A command that an agent in the host language runs.
typedef struct lw_process lw_process;

// The call of a reclaim, for as long as that lasts.
typedef struct lw_reclaim lw_reclaim;

// A command that runs on a leased instance.
typedef struct lw_running lw_running;

// The call of a start, for as long as that lasts; some functions take it only on its own thread.
typedef struct lw_start lw_start;

// The call of a stop, for as long as that lasts.
typedef struct lw_stop lw_stop;

// The claim to the answer for one submitted build.
typedef struct lw_ticket lw_ticket;

// One worker of a master. It does not keep the master alive.
typedef struct lw_worker lw_worker;

// A name and a value: a property of a build, or a variable of an environment. It will never have more fields.
typedef struct lw_property {
  // Not NULL.
  const char *name;
  // Not NULL, except where a NULL means that a variable is removed.
  const char *value;
} lw_property;

// One unit of work: what the queue and the driver need to know. Set `size`, and leave zero what you do not need.
typedef struct lw_build {
  // sizeof(lw_build).
  size_t size;
  // A name for people; names need not be unique. Not NULL.
  const char *name;
  // What a driver renders its settings from and compares instances by.
  const struct lw_property *properties;
  // How many there are.
  size_t property_count;
  // The labels that a worker must offer.
  const char *const *labels;
  // How many there are.
  size_t label_count;
  // Builds of a higher priority go first; among equals the older one.
  int32_t priority;
  // The build ends with LW_ERROR_ATTEMPTS_EXHAUSTED after this many failed attempts; 0: as the master's options
  // say.
  uint32_t max_attempts;
} lw_build;

// How one worker is known and how patient it is. Set `size` and `name`, and leave zero what you do not need.
typedef struct lw_worker_options {
  // sizeof(lw_worker_options).
  size_t size;
  // Unique within a master; without colons, control characters and invisible ones. Not NULL, and not empty.
  const char *name;
  // The labels that it offers.
  const char *const *labels;
  // How many there are.
  size_t label_count;
  // How many builds may use the instance at once; 0: 1.
  size_t max_builds;
  // When an idle instance is stopped: an lw_idle; 0: LW_IDLE_AFTER.
  int32_t idle;
  // Not used.
  int32_t reserved;
  // With LW_IDLE_AFTER: after how long; 0: 10 minutes.
  uint64_t idle_ms;
  // How long the agent may take to attach, from the request for the instance on; 0: 1 hour.
  uint64_t missing_timeout_ms;
  // The time between two checks of an instance that has not attached yet; 0: 10 s.
  uint64_t check_interval_ms;
} lw_worker_options;

// What a driver is told when it is to start an instance. All of it lives until the callback returns.
typedef struct lw_start_request {
  // How much of this structure the library has filled in: look at no field beyond.
  size_t size;
  // The name of the worker; the agent must attach under this name.
  const char *worker;
  // The number of this attempt of the worker.
  uint64_t epoch;
  // 32 hexadecimal digits that belong to this attempt alone: for idempotent create calls, names and tags.
  const char *key;
  // Whose instances these are: 32 hexadecimal digits that all attempts of one master, or of one journal, share.
  const char *owner;
  // What the agent must prove itself with. Hand it to the instance, not to a log.
  const char *secret;
  // Where the agent must connect to, host:port: the master's agent_address, or where it listens. NULL: neither was
  // set.
  const char *agent_address;
  // The name of the build that the instance is started for, or NULL without one.
  const char *build_name;
  // The properties of that build, sorted by name.
  const struct lw_property *properties;
  // How many there are.
  size_t property_count;
} lw_start_request;

// What a driver is told when it is to stop an instance. All of it lives until the callback returns.
typedef struct lw_stop_request {
  // How much of this structure the library has filled in: look at no field beyond.
  size_t size;
  // The name of the worker.
  const char *worker;
  // The attempt that started it.
  uint64_t epoch;
  // The key of that attempt.
  const char *key;
  // Whose it is.
  const char *owner;
  // What start has returned. It is the driver's again: free what it stands for.
  void *instance;
  // Whether start has returned an instance at all. If not, it may have left something that is known by the key.
  bool has_instance;
  // Whether to skip all grace: somebody waits for the end. This is how it was when stop was called; lw_stop_hurried
  // says how it is now.
  bool fast;
} lw_stop_request;

// An attempt that may have left something behind. All of it lives until the callback returns.
typedef struct lw_leftover {
  // How much of this structure the library has filled in: look at no field beyond.
  size_t size;
  // The name of the worker.
  const char *worker;
  // The number of the attempt.
  uint64_t epoch;
  // The key of the attempt.
  const char *key;
  // Whose it is.
  const char *owner;
  // What the start has recorded, the first one first. It may have made more than that.
  const char *const *ids;
  // How many there are.
  size_t id_count;
  // How far it had come: 0 its start may have been called, 1 it has recorded something, 2 its stop may have been
  // called.
  int32_t stage;
  // How long ago the start was called, by the wall clock. When a damaged journal does not tell that: how long this
  // master has known of the attempt.
  uint64_t age_ms;
} lw_leftover;

// A driver in the language of the host. Set `size`, `start` and `stop`; what else is NULL has a default.
//
// For one worker, start, check, compatible and stop are called one at a time, all for one instance on one thread that
// lives as long as the instance; reclaim is called on a thread of its own, and kind on any. Calls for different workers
// run at the same time. They may block for minutes, except for kind, and may call any function of the library. Every
// start is followed by exactly one stop, also when it failed or was cancelled. They return an lw_answer, and say why with
// lw_set_reason before that.
typedef struct lw_driver {
  // sizeof(lw_driver).
  size_t size;
  // Passed to every callback.
  void *context;
  // Called once when the driver will not be called any more, on any thread: when the master is gone with its
  // workers, tickets and leases. Not called when adding the worker failed. May be NULL.
  void (*release)(void *context);
  // Brings an instance up and returns when it runs; the agent may attach before or after that. instance is where to
  // put what the other callbacks get; NULL is as good as any. When lw_start_cancelled turns true return soon, with
  // the instance or a failure.
  int32_t (*start)(void *context, struct lw_start *start, const struct lw_start_request *request, void **instance);
  // Stops the instance and removes everything that belongs to it. What is gone already counts as stopped. When
  // lw_stop_hurried turns true end the instance without more grace.
  int32_t (*stop)(void *context, struct lw_stop *stop, const struct lw_stop_request *request);
  // Whether an instance whose agent has not attached yet still looks well; see also attached_check_interval_ms. NULL:
  // always.
  int32_t (*check)(void *context, void *instance);
  // Whether the running instance fits a build with these properties: LW_ANSWER_OK or LW_ANSWER_NO. Any other answer
  // counts as LW_ANSWER_NO. NULL: always.
  int32_t (*compatible)(void *context, void *instance, const struct lw_property *properties, size_t property_count);
  // Takes away what is left of an attempt, after a crash or a failed stop: by the exact key, owner and ids alone.
  // Called again after a failure, with growing pauses. NULL: LW_ANSWER_UNSUPPORTED.
  int32_t (*reclaim)(void *context, struct lw_reclaim *reclaim, const struct lw_leftover *leftover);
  // How often check is called after the agent has attached as well; 0: never; 1 to 999 count as 1000. An instance
  // that looks bad then takes no new build, and is stopped when those that it has are done.
  uint64_t attached_check_interval_ms;
  // The kind of instance that a build with these properties needs, said with lw_set_kind: an instance that was started
  // for one build serves every build of the same kind, and no other. A kind should name all that the driver makes of
  // the properties (image and memory, say), but no secret. Any answer but LW_ANSWER_OK: no instance can be made for
  // such a build.
  //
  // Called about once for each distinct set of properties, on the thread that submits a build or reports a change: it
  // must not block, and should depend on the properties alone. compatible is not called then. NULL: compatible decides,
  // about each instance.
  int32_t (*kind)(void *context, const struct lw_property *properties, size_t property_count);
} lw_driver;

// A command to run on an instance. Set `size`, either `shell` or `arguments`, and leave zero what you do not need.
typedef struct lw_command {
  // sizeof(lw_command).
  size_t size;
  // A line for the instance's shell.
  const char *shell;
  // Or a program and its arguments, without a shell; the first item is the program.
  const char *const *arguments;
  // How many there are, the program included.
  size_t argument_count;
  // Where to run it, relative to the instance's directory; that directory itself by default. It must exist.
  const char *directory;
  // Changes to the instance's environment; a value that is NULL removes the variable.
  const struct lw_property *environment;
  // How many there are.
  size_t environment_count;
  // What the command reads from its standard input; it is at its end after that.
  const uint8_t *input;
  // How many bytes that are.
  size_t input_length;
  // The command is killed when it has run this long; 0: no limit.
  uint64_t time_limit_ms;
  // The command is killed when it has written nothing for this long; 0: no limit.
  uint64_t silence_limit_ms;
  // How many of the last bytes of each stream lw_lease_run keeps; 0: 1 MiB.
  size_t keep_output;
} lw_command;

// An agent in the language of the host: what makes an instance do something. Set `size`; what else is NULL has a
// default. Callbacks may run on several threads at once.
typedef struct lw_agent {
  // sizeof(lw_agent).
  size_t size;
  // Passed to every callback, and reached through a lease with lw_lease_agent.
  void *context;
  // Called once when neither the library nor a lease uses the agent any more, on any thread. May be NULL.
  void (*release)(void *context);
  // The instance is about to be stopped: end what runs. Called at most once, before stop. May be NULL.
  void (*close)(void *context);
  // Starts a command and returns an lw_answer without waiting for its end. Called by who starts the command, within
  // lw_lease_run or lw_lease_start. The command lives until this returns; keep to its limits. What it writes goes to
  // lw_process_write; after LW_ANSWER_OK its end must be told, once, with lw_process_end or lw_process_fail, which may
  // be before this returns. NULL: LW_ANSWER_UNSUPPORTED.
  int32_t (*start_command)(void *context, const struct lw_command *command, struct lw_process *process);
  // Kills a command without waiting for its end, which must be told all the same. On any thread, perhaps more than
  // once, and perhaps just when the command has ended. May be NULL.
  void (*interrupt)(void *context, struct lw_process *process);
} lw_agent;

// Something that happened. From lw_events_take: free it with lw_free. In a callback: it lives until that returns.
typedef struct lw_event {
  // How much of this structure the library has filled in: look at no field beyond.
  size_t size;
  // 0, 1, 2 and so on: the order in which things happened in one master.
  uint64_t sequence;
  // How many events this observer has missed just before this one, because it was too slow. Not exact when several
  // threads take from the same queue: it may count events that another thread has just taken.
  uint64_t missed;
  // When, in nanoseconds since the master was made.
  uint64_t at_ns;
  // What happened, in snake case: "build_started", "stop_called", "substantiate_success" and so on.
  const char *kind;
  // The worker that it is about, or NULL.
  const char *worker;
  // The attempt of that worker, or 0.
  uint64_t epoch;
  // The number of the build that it is about, or 0.
  uint64_t build;
  // Why it happened, what went wrong, or what the driver has said, where the event has such a text; else NULL.
  const char *reason;
  // The event as a line for people.
  const char *text;
  // With "build_finished", how: "succeeded", "failed", "dropped", "cancelled" or "not_run"; else NULL.
  const char *result;
} lw_event;

// Is called with each event, on a thread of the library that does nothing else. It may call back into the library.
typedef void (*lw_event_callback)(void *context, const struct lw_event *event);

// One kind of local instances. Set `size` and `name`.
typedef struct lw_local_kind {
  // sizeof(lw_local_kind).
  size_t size;
  // The name by which builds choose it; "default" for builds that choose none. Not NULL.
  const char *name;
  // A directory that every instance begins as a copy of. NULL: an empty one.
  const char *template_directory;
  // Changes to the environment of all commands; a value that is NULL removes the variable.
  const struct lw_property *environment;
  // How many there are.
  size_t environment_count;
} lw_local_kind;

// Settings of local workers: a private directory for each instance, and commands as child processes.
typedef struct lw_local_options {
  // sizeof(lw_local_options).
  size_t size;
  // Where the directories of instances are made; it is created if it does not exist. NULL: the directory for
  // temporary files.
  const char *root;
  // The name of the build property that chooses the kind. NULL: "kind".
  const char *kind_property;
  // Pointers to the kinds that there are beside the empty default; one that is named "default" replaces that.
  const struct lw_local_kind *const *kinds;
  // How many there are.
  size_t kind_count;
} lw_local_options;

// Settings of workers whose instances are started, checked and stopped by programs. Set `size`, `start` and `stop`.
typedef struct lw_command_options {
  // sizeof(lw_command_options).
  size_t size;
  // The program that starts an instance, and its arguments.
  const char *const *start;
  // How many there are, the program included.
  size_t start_count;
  // The program that stops it.
  const char *const *stop;
  // How many there are, the program included.
  size_t stop_count;
  // The program that checks it. NULL: none.
  const char *const *check;
  // How many there are, the program included.
  size_t check_count;
  // The program that removes what an attempt has left behind. NULL: the stop program is used.
  const char *const *reclaim;
  // How many there are, the program included.
  size_t reclaim_count;
  // The names of properties that make a difference: an instance is only used for builds with the same values.
  const char *const *compatible_by;
  // How many there are.
  size_t compatible_by_count;
  // How long a program that is ended has between SIGTERM and SIGKILL; 0: 10 s.
  uint64_t grace_ms;
  // How long the stop program, or the reclaim program, may run; 0: 10 minutes.
  uint64_t stop_limit_ms;
  // How long the check program may run; 0: 1 minute.
  uint64_t check_limit_ms;
  // Not 0: the secret is handed over in a file and not in the environment.
  int32_t secret_in_file;
  // Not used.
  int32_t reserved;
} lw_command_options;

// Settings of workers whose instances are child processes, each of them an agent. Set `size` and `agent`.
typedef struct lw_process_options {
  // sizeof(lw_process_options).
  size_t size;
  // The program that is the agent, and its arguments.
  const char *const *agent;
  // How many there are, the program included.
  size_t agent_count;
  // The names of properties that make a difference: an instance is only used for builds with the same values.
  const char *const *compatible_by;
  // How many there are.
  size_t compatible_by_count;
  // How long the agent has between SIGTERM and SIGKILL, 1 s at most when the stop is fast; 0: 10 s.
  uint64_t grace_ms;
  // Not 0: the secret is handed over in a file and not in the environment.
  int32_t secret_in_file;
  // Not 0: creates a directory for each instance and removes it with the instance. LATENT_WORKER_DIRECTORY in the
  // environment of the agent is its path.
  int32_t private_directory;
} lw_process_options;

// Who a lease belongs to. Free it with lw_free.
typedef struct lw_lease_info {
  // How much of this structure the library has filled in: look at no field beyond.
  size_t size;
  // The number of the build.
  uint64_t build;
  // The name of the build.
  const char *build_name;
  // The name of the worker.
  const char *worker;
  // The attempt of the worker that brought this instance up.
  uint64_t epoch;
} lw_lease_info;

// A command that has ended, and its output. Free it with lw_free.
typedef struct lw_finished {
  // How much of this structure the library has filled in: look at no field beyond.
  size_t size;
  // How it ended.
  lw_exit exit;
  // The exit code or the number of the signal, else -1.
  int32_t code;
  // After how long.
  uint64_t elapsed_ms;
  // The last bytes of its standard output. No NUL follows them.
  const uint8_t *out;
  // How many bytes that are.
  size_t out_length;
  // The last bytes of its standard error. No NUL follows them.
  const uint8_t *err;
  // How many bytes that are.
  size_t err_length;
  // How many earlier bytes of both are not here.
  uint64_t dropped;
} lw_finished;

// What lw_running_read has read. Set `size` before the call.
typedef struct lw_output {
  // sizeof(lw_output).
  size_t size;
  // What it is, an lw_stream.
  int32_t stream;
  // With LW_STREAM_END: how it ended, an lw_exit.
  int32_t exit;
  // With LW_STREAM_OUT and LW_STREAM_ERR: how many bytes are in the buffer.
  size_t length;
  // With LW_STREAM_END: the exit code or the number of the signal, else -1.
  int32_t code;
  // Not used.
  int32_t reserved;
  // With LW_STREAM_END: after how long.
  uint64_t elapsed_ms;
} lw_output;

// Settings of a master. Set `size`, and leave zero what you do not need.
typedef struct lw_master_options {
  // sizeof(lw_master_options).
  size_t size;
  // The path of a journal, so that nothing is forgotten when this process dies. NULL: none is kept.
  const char *journal;
  // Where agents of other processes and machines connect, host:port; port 0 is a free one. NULL: nowhere.
  const char *listen;
  // Where drivers tell agents to connect to, host:port. NULL: where the master listens, if it does.
  const char *agent_address;
  // The file with the certificates, PEM; connections are encrypted then. NULL: they are not. Set both this and
  // tls_key, or neither.
  const char *tls_certificates;
  // The file with the private key, PEM.
  const char *tls_key;
  // How long lw_master_free waits for what is in flight; 0: 30 s.
  uint64_t drop_timeout_ms;
  // How often an agent is pinged; 0: 10 s. Set both this and heartbeat_timeout_ms, or neither.
  uint64_t heartbeat_interval_ms;
  // After how long without a word an agent is lost; 0: 30 s.
  uint64_t heartbeat_timeout_ms;
  // How long an agent may take from its connection until it has attached; 0: 10 s.
  uint64_t handshake_timeout_ms;
  // How long an agent may take to read each 256 KiB of what it is sent, and to send each 256 KiB of a message that
  // is longer than 512 KiB, before it is lost; 0: 10 s.
  uint64_t write_timeout_ms;
  // For how long an older build lets younger builds of another kind use the instances that are up, as a multiple of
  // the expected duration of a start; 0: 6, less than 0: not at all.
  double patience;
  // The least patience; 0: 1 s.
  uint64_t minimum_patience_ms;
  // A build that was submitted this much earlier than another one counts as if its priority were higher by 1; 0: age
  // decides among builds of the same priority alone.
  uint64_t ageing_ms;
  // The pause of a build after its first failed attempt, which doubles with each further one; 0: 1 s.
  uint64_t retry_pause_ms;
  // The longest pause; 0: 5 min.
  uint64_t longest_retry_pause_ms;
  // How long a lease may wait to be taken out of its ticket or inbox before its build ends as abandoned; 0: 1 h.
  uint64_t claim_timeout_ms;
  // How long the agent of an instance under LW_IDLE_NEVER may be gone while a build waits; 0: 60 s.
  uint64_t reattach_timeout_ms;
  // The attempts at a build that does not say it itself; 0: 10.
  uint32_t max_attempts;
} lw_master_options;

// What a shutdown came to. Free it with lw_free.
typedef struct lw_report {
  // How much of this structure the library has filled in: look at no field beyond.
  size_t size;
  // Whether nothing is in flight any more.
  bool complete;
  // The workers in flight and the leftovers, as text for people.
  const char *text;
  // The same as a JSON object: complete, in_flight (workers), reclaiming and left_behind (leftovers), text.
  const char *json;
} lw_report;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The version of the ABI that the library has: compare it with LW_ABI_VERSION before anything else.
lw_code lw_abi_version(uint32_t *version);

// What the last call on this thread that did not return LW_OK has to say, for people; an empty text before the first
// one. Never NULL. It lives until the next such call on this thread, or until the thread ends. Do not free it.
const char *lw_last_error_message(void);

// Frees a text or a structure that the library has given out through a pointer to const. LW_ERROR_HANDLE: it is not from
// this library, or was freed already; unlike a handle it is an address, which may be given out again. NULL is no error.
lw_code lw_free(const void *given);

// How many handles, and how many texts and structures to be freed with lw_free, are out in this process: to find leaks.
lw_code lw_live(size_t *handles, size_t *given);

// The context of the leased instance's agent, if a driver has attached it with lw_start_attach and an lw_agent; else
// LW_ERROR_UNSUPPORTED. It lives at least as long as the lease.
lw_code lw_lease_agent(struct lw_lease *lease, void **context);

// Says that the agent is gone, with a reason for people (or NULL): the leases that use it end as lost, and the
// instance is stopped. With LW_IDLE_NEVER and without a lease the instance is stopped only if no agent attaches again
// within missing_timeout_ms. The handle is invalid afterwards. Does not block.
lw_code lw_attachment_lost(struct lw_attachment *attachment, const char *reason);

// Frees an attachment: says that the agent is gone, as lw_attachment_lost does. Does not block. NULL is no error.
lw_code lw_attachment_free(struct lw_attachment *attachment);

// Hands output of a command to who has started it. stream: LW_STREAM_OUT or LW_STREAM_ERR. Blocks while a lot of output
// waits to be read; within start_command, where nobody reads yet, it takes 1 MiB in all, and answers
// LW_ERROR_UNSUPPORTED for more. LW_ERROR_CANCELLED: the command was interrupted. LW_ERROR_ENDED: nobody reads any more. In both cases
// end it, and tell so.
lw_code lw_process_write(struct lw_process *process,
                         int stream,
                         const uint8_t *data,
                         size_t length);

// Tells how a command has ended: exit is an lw_exit, code its exit code or the number of the signal. The handle is none
// afterwards. Does not block.
lw_code lw_process_end(struct lw_process *process, int exit, int32_t code);

// Tells that a command could not be run, or that it is not known how it has ended; reason is for people and may be NULL.
// The handle is invalid afterwards. Does not block.
lw_code lw_process_fail(struct lw_process *process,
                        const char *reason);

// Puts a build into the queue. LW_ERROR_ARGUMENT: the structure makes no sense. Every other reason why the build does
// not run (no worker fits, the master shuts down) comes as the ticket's answer. Does not block.
//
// Free the ticket with lw_ticket_free; that cancels the build unless its lease was taken.
lw_code lw_master_submit(struct lw_master *master, const struct lw_build *build, struct lw_ticket **ticket);

// The number of the ticket's build: 1, 2, 3 in the order in which its master took them.
lw_code lw_ticket_build(struct lw_ticket *ticket, uint64_t *build);

// Blocks until the build has a lease or ends without one, at most for timeout_ms; 0 only looks, LW_FOREVER has no
// limit.
//
// LW_OK: the lease is the caller's now. LW_ERROR_TIMEOUT: the build is as it was. All other codes say why there is no
// (further) lease. A lease that is retried is followed by another answer; after the last one every wait answers
// LW_ERROR_ENDED. Another thread can end the wait with lw_ticket_cancel.
lw_code lw_ticket_wait(struct lw_ticket *ticket, uint64_t timeout_ms, struct lw_lease **lease);

// Ends the ticket's build, wherever it is: it is answered with LW_ERROR_CANCELLED at once, and a lease that is out
// ends. Does not block. Nothing happens when the build has ended already.
lw_code lw_ticket_cancel(struct lw_ticket *ticket);

// Frees a ticket, and cancels its build unless the lease was taken; then the build goes on, but lw_lease_retry cancels
// it. Does not block. NULL is no error. While another thread waits in lw_ticket_wait neither its wait nor the build
// ends by this: lw_ticket_cancel ends both.
lw_code lw_ticket_free(struct lw_ticket *ticket);

// Makes an inbox. It holds at most one lease and one last answer for each build that was submitted to it.
lw_code lw_inbox_new(struct lw_inbox **inbox);

// Puts a build into the queue whose answers go into the inbox; number gets the build's number. Does not block.
lw_code lw_master_submit_to(struct lw_master *master,
                            const struct lw_build *build,
                            struct lw_inbox *inbox,
                            uint64_t *number);

// Takes an answer out of the inbox; blocks until there is one, at most for timeout_ms; 0 only looks.
//
// When number is not 0 afterwards, the code is the answer for the build of that number, as lw_ticket_wait has it:
// with LW_OK the lease is the caller's. When it is 0 the code is about this call: LW_ERROR_TIMEOUT above all;
// LW_ERROR_ENDED when another thread frees the inbox.
lw_code lw_inbox_take(struct lw_inbox *inbox, uint64_t timeout_ms, uint64_t *number, struct lw_lease **lease);

// A file descriptor that is readable while the inbox has something to take: for poll, select and event loops. Unix
// only.
//
// Do not read, write or close it: it belongs to the inbox. When it is readable, take until LW_ERROR_TIMEOUT; now and
// then it is readable for nothing. The first call starts a thread, which ends when the inbox is freed.
lw_code lw_inbox_fd(struct lw_inbox *inbox, int *fd);

// Frees an inbox and cancels its builds: waiting builds end, and leases that are still in the inbox are given back. A
// build whose lease was taken continues, but lw_lease_retry cancels it. A thread that waits in lw_inbox_take gets
// LW_ERROR_ENDED. Does not block. NULL is allowed.
lw_code lw_inbox_free(struct lw_inbox *inbox);

// Adds a worker whose driver is a table of callbacks. It costs no thread until work needs it.
//
// The table is copied. Unless this fails, release is called when the driver will not be called any more. added may be
// NULL, and is to be freed with lw_worker_free.
lw_code lw_master_add_driver(struct lw_master *master,
                             const struct lw_worker_options *options,
                             const struct lw_driver *driver,
                             struct lw_worker **added);

// Says why the callback that runs on this thread is going to return what it returns; a text for people, which lands in
// errors and events. NULL takes back what was said. For callbacks of drivers and agents.
lw_code lw_set_reason(const char *reason);

// Says the kind of instance that the callback `kind`, which runs on this thread, is asked for: a name for people. NULL,
// or without this call: every set of properties is a kind of its own.
lw_code lw_set_kind(const char *name);

// Whether nobody waits for the instance any more. Does not block. On any thread, until the callback returns.
lw_code lw_start_cancelled(struct lw_start *start, bool *cancelled);

// Blocks for this time, and ends early with LW_ERROR_CANCELLED when the start is cancelled. Polling a provider goes
// through this. On the thread of the callback.
lw_code lw_start_sleep(struct lw_start *start, uint64_t time_ms);

// Records the id of what this start has made, or is going to make, so that it is found whatever happens next; see
// lw_leftover. An id has 1 to 4096 bytes. With a journal this blocks until the id is durable; do not use it before.
// LW_ERROR_JOURNAL: the id is empty, too long or not durable; remove what was made, and let the start fail. On the
// thread of the callback.
lw_code lw_start_record(struct lw_start *start, const char *id);

// Tells observers what the start is doing ("pulling image, 40 %"). Does not block. On the thread of the callback.
lw_code lw_start_progress(struct lw_start *start, const char *progress);

// Adds a short text about the instance (an id, an address) to what people are told when it has started. Does not
// block. On any thread, until the callback returns.
lw_code lw_start_detail(struct lw_start *start, const char *detail);

// With LW_ANSWER_THROTTLED: how long the provider asks to wait. The worker's quarantine is at least as long, up to a
// year. Does not block. On any thread, until the callback returns.
lw_code lw_start_retry_after(struct lw_start *start, uint64_t time_ms);

// Attaches an agent that lives in this process: from now on builds may use the instance. Does not block. On any
// thread, until the callback returns. LW_ERROR_ATTACH: another one is attached, or nobody waits for the instance any
// more.
//
// agent may be NULL: then its builds run no commands. attachment may be NULL: then the agent is attached until the
// instance is stopped. Otherwise free it to say that the agent is gone; it is to be freed also when the instance was
// stopped. A build may use the agent before attachment is stored. When this call fails the agent is not released.
lw_code lw_start_attach(struct lw_start *start, const struct lw_agent *agent, struct lw_attachment **attachment);

// Whether the stop is a fast one now: end the instance without more grace. A graceful stop becomes a fast one with a
// fast lw_worker_insubstantiate, a fast shutdown and the end of the master. Does not block. On any thread, until the
// callback returns.
lw_code lw_stop_hurried(struct lw_stop *stop, bool *hurried);

// Blocks for this time, and ends early with LW_ERROR_HURRIED when the stop is a fast one or becomes one. Whatever gives
// an instance time to end by itself goes through this. On any thread, until the callback returns.
lw_code lw_stop_sleep(struct lw_stop *stop, uint64_t time_ms);

// Whether a fast shutdown of the master has begun: return soon, with a failure. A graceful one waits for the reclaim.
// Does not block. On any thread, until the callback returns.
lw_code lw_reclaim_cancelled(struct lw_reclaim *reclaim, bool *cancelled);

// Blocks for this time, and ends early with LW_ERROR_CANCELLED when a fast shutdown of the master begins. On any
// thread, until the callback returns.
lw_code lw_reclaim_sleep(struct lw_reclaim *reclaim, uint64_t time_ms);

// Makes a queue of all events from now on. When capacity of them (at least 1) lie in it further ones are missed, and
// counted; nothing ever waits for an observer. Free it with lw_events_free.
lw_code lw_master_events(struct lw_master *master, size_t capacity, struct lw_events **events);

// Takes the oldest event; blocks until there is one, at most for timeout_ms; 0 only looks. Free it with lw_free.
//
// LW_ERROR_TIMEOUT: no event came. LW_ERROR_ENDED: all was taken, and the master is gone with its workers, tickets and
// leases, so that no event will come any more; or another thread frees the queue.
lw_code lw_events_take(struct lw_events *events, uint64_t timeout_ms, const struct lw_event **event);

// A file descriptor that is readable while there are events to take, and for ever when none will come any more. Unix
// only.
//
// Do not read, write or close it: it belongs to the queue. When it is readable, take until LW_ERROR_TIMEOUT; now and
// then it is readable for nothing. The first call starts a thread, which ends when the queue is freed.
lw_code lw_events_fd(struct lw_events *events, int *fd);

// Frees a queue of events. A thread that waits in lw_events_take gets LW_ERROR_ENDED. Does not block. NULL is no
// error.
lw_code lw_events_free(struct lw_events *events);

// Has the callback called with every event from now on, one at a time, on a thread made for it. When the callback is
// slower than events come, up to capacity of them (at least 1) wait and further ones are missed, and counted.
//
// release (or NULL) is called with the context when the callback will not be called any more: after lw_observer_free,
// or when the master is gone with its workers, tickets and leases. When this call fails it is not called. Free
// observer with lw_observer_free in both cases.
lw_code lw_master_observe(struct lw_master *master,
                          size_t capacity,
                          lw_event_callback callback,
                          void *context,
                          void (*release)(void *context),
                          struct lw_observer **observer);

// Ends an observer. Does not block: a callback that runs goes on, and is the last one; then the context is released.
// NULL is no error.
lw_code lw_observer_free(struct lw_observer *observer);

// Adds a worker on this machine. local may be NULL; added may be NULL, and is to be freed with lw_worker_free. Unix
// only.
lw_code lw_master_add_local(struct lw_master *master,
                            const struct lw_worker_options *options,
                            const struct lw_local_options *local,
                            struct lw_worker **added);

// Adds a worker whose instances are started and stopped by programs. added may be NULL, and is to be freed with
// lw_worker_free. Unix only.
lw_code lw_master_add_command(struct lw_master *master,
                              const struct lw_worker_options *options,
                              const struct lw_command_options *command,
                              struct lw_worker **added);

// Adds a worker whose instances are child processes that attach by themselves. added may be NULL, and is to be freed
// with lw_worker_free. Unix only.
lw_code lw_master_add_process(struct lw_master *master,
                              const struct lw_worker_options *options,
                              const struct lw_process_options *process,
                              struct lw_worker **added);

// Adds a worker whose instances are containers. added may be NULL, and is to be freed with lw_worker_free. Unix only.
//
// settings is a JSON object. Only image is needed. Texts are templates: "{name}" is replaced by that property of the
// build, "{name:-default}" by the default when the build has no such property, "{{" and "}}" by single braces:
//
// image, platform, network, hostname, master_address: texts. command: a list of texts. env, labels: objects of texts.
// volumes: a list of texts "source:/target[:options]". memory: a text, "512M". cpus: a number or a text. init: true or
// false. pull: "missing", "never" or "always". host_config: an object, as the engine's API has it.
//
// These are not templates. dockerfile: the text of a Dockerfile that the image is built from when it is missing;
// build_directory: or a directory with one. engine: the engine's address, as DOCKER_HOST has it. registries: a list of
// objects with registry ("ghcr.io", "localhost:5000"), user and password, which are sent for images of that registry
// only. secret_in_file: true or false. stop_grace_ms: a number.
lw_code lw_master_add_docker(struct lw_master *master,
                             const struct lw_worker_options *options,
                             const char *settings,
                             struct lw_worker **added);

// Adds a worker whose instances are machines of Amazon EC2. added may be NULL, and is to be freed with lw_worker_free.
//
// settings is a JSON object. image and offers are needed, unless there is a launch_template that says them; all else
// is optional. Templates are as those of lw_master_add_docker.
//
// Templates: image ("ami-...", or "ssm:" and the name of a parameter), launch_template, subnet, key_pair,
// placement_group, tenancy, profile, user_data, elastic_ip, master_address. Lists of templates: offers ("c7i.large",
// "c7i.large:spot<0.08", "c7i.large@subnet-1"), security_groups. Objects of templates: tags, by name; volumes, by
// device.
//
// These are not templates. Texts: secret_in_parameter, region, endpoint, aws_profile. at_stop: "terminate", "stop" or
// "hibernate". metadata: "token_required", "token_optional" or "off". Numbers: poll_interval_ms, call_limit_ms,
// start_limit_ms, stop_limit_ms, listing_lag_ms, shortage_memory_ms, attached_check_interval_ms. block_devices: a list of
// objects with device, size_gib, volume_type, iops, throughput, encrypted, kms_key, snapshot, kept_after_termination.
// credentials: an object with access_key_id, secret_access_key and perhaps session_token.
lw_code lw_master_add_ec2(struct lw_master *master,
                          const struct lw_worker_options *options,
                          const char *settings,
                          struct lw_worker **added);

// Whether this build of the library has a feature: "local", "command", "process", "agent", "tls", "docker" or "ec2".
// has gets 1 or 0; 0 for any other name.
lw_code lw_has_feature(const char *name, int *has);

// Says which build, worker and attempt the lease belongs to. Free info with lw_free.
lw_code lw_lease_get_info(struct lw_lease *lease, const struct lw_lease_info **info);

// Blocks until the lease has ended before it was given back, at most for timeout_ms; 0 only looks.
//
// LW_ERROR_TIMEOUT: it has not. LW_ERROR_LEASE_LOST, LW_ERROR_LEASE_STOPPED and LW_ERROR_CANCELLED say why it has. It
// must be given back all the same. After LW_ERROR_CANCELLED a command that nobody reads from runs until it is freed or
// the lease is given back. LW_ERROR_ENDED: another thread has given it back. Never LW_OK.
lw_code lw_lease_wait_end(struct lw_lease *lease, uint64_t timeout_ms);

// Runs a command to its end and collects its output. Blocks until the command or the lease has ended. Any exit code is
// LW_OK: look at finished, and free it with lw_free. When the lease ends first the command is killed, and the code is
// that of lw_lease_wait_end.
lw_code lw_lease_run(struct lw_lease *lease, const struct lw_command *command, const struct lw_finished **finished);

// Starts a command; its output is read with lw_running_read. Does not wait for the command.
//
// Free it with lw_running_free, which kills it; giving the lease back frees it as well.
lw_code lw_lease_start(struct lw_lease *lease, const struct lw_command *command, struct lw_running **running);

// Reads output into the buffer: blocks until there is some, the command has ended (LW_STREAM_END, the last thing to be
// read), or the lease has ended, at most for timeout_ms; 0 only looks.
//
// What does not fit into the buffer, which has at least one byte, is read by the next call. LW_ERROR_TIMEOUT: nothing
// came. LW_ERROR_LEASE_LOST, LW_ERROR_LEASE_STOPPED and LW_ERROR_CANCELLED: the lease has ended, and the command with
// it. LW_ERROR_COMMAND: it is not known how the command has ended. LW_ERROR_ENDED: the end, or why there is none, was
// read already. One thread reads at a time; a second one waits for the first.
lw_code lw_running_read(struct lw_running *running,
                        uint64_t timeout_ms,
                        uint8_t *buffer,
                        size_t buffer_length,
                        struct lw_output *output);

// Kills the command and everything that it started. Does not block; the end is read with lw_running_read.
lw_code lw_running_interrupt(struct lw_running *running);

// Frees a command, and kills it if it has not ended. Does not block. NULL is no error.
lw_code lw_running_free(struct lw_running *running);

// Copies a file of this machine to the instance; a file that is there already is replaced. Blocks until it is done or
// the lease has ended. A relative path counts from the instance's directory. mode: the permission bits of the file;
// with 0 one that is replaced keeps its own, and a new one has the usual ones.
lw_code lw_lease_write_file(struct lw_lease *lease, const char *local_path, const char *path, uint32_t mode);

// Copies a file of the instance to this machine, where it replaces a file that is there already. Blocks until it is
// done or the lease has ended. After an error the file here may be empty, or a part of the one there.
lw_code lw_lease_read_file(struct lw_lease *lease, const char *path, const char *local_path);

// Says how the build ended and gives the place back. result: an lw_result. reason: for people, with LW_RESULT_FAILED
// only; may be NULL. The lease is no handle afterwards, nor are commands that were started through it; what still runs
// is killed.
//
// Nothing is said again about a build that was cancelled meanwhile. The place is given back as soon as no call on
// another thread uses the lease any more. Does not block.
lw_code lw_lease_finish(struct lw_lease *lease, int result, const char *reason);

// Gives the place back and puts the build back into the queue, with the priority and age that it had: the next answer
// comes to the same ticket or inbox. When that was freed the build is cancelled instead. This counts as a failed
// attempt on this worker: the build pauses, and avoids the worker from now on while another one fits it. reason is for
// people and may be NULL. The handle is invalid afterwards, as after lw_lease_finish. Does not block.
lw_code lw_lease_retry(struct lw_lease *lease, const char *reason);

// As lw_lease_retry, and says that the instance is bad: it takes no more builds, and is stopped when those that run on
// it have ended.
lw_code lw_lease_retire(struct lw_lease *lease, const char *reason);

// Gives the place back without a word: the build ends as dropped. The handle is invalid afterwards, as after
// lw_lease_finish. Does not block. NULL is no error.
lw_code lw_lease_free(struct lw_lease *lease);

// Makes a master and its thread. options may be NULL: then all is as by default. Free it with lw_master_free.
//
// Opening a journal blocks for as long as the file system takes, and up to a second when somebody else has it.
// LW_ERROR_JOURNAL: another master uses the journal, or the file is no journal, or one of another version.
// LW_ERROR_SYSTEM: a file (the journal's too) or an address cannot be opened.
lw_code lw_master_new(const struct lw_master_options *options, struct lw_master **master);

// Where the master listens, host:port, with the port that it got. Free address with lw_free. LW_ERROR_ENDED: it does
// not listen.
lw_code lw_master_address(struct lw_master *master, const char **address);

// What every worker is doing and why, and what may have been left behind, as a JSON object: workers, leftovers,
// unknown_agents, journal_damage. Free json with lw_free. Does not block.
lw_code lw_master_status(struct lw_master *master, const char **json);

// Takes something off the list of leftovers, and out of the journal, because somebody has looked after it: it is known
// by its key. LW_ERROR_ENDED: it is not on the list. With a journal, blocks until that is durable; once a shutdown is
// complete the journal is not told any more.
lw_code lw_master_forget_leftover(struct lw_master *master, const char *key);

// Lets nothing new start, answers every build that waits, and stops every instance. mode: an lw_shutdown. A graceful
// shutdown waits for builds that run and for reclaims that are due; a fast one ends both.
//
// Blocks until that is done, at most for limit_ms: LW_ERROR_TIMEOUT then, and the shutdown goes on; 0 does not wait.
// report (or NULL) says in both cases what is still in flight; free it with lw_free. May be called again, to wait
// longer or to turn a graceful shutdown into a fast one. Within a callback it does not block. Call it without an
// interpreter's lock: it waits for callbacks.
lw_code lw_master_shutdown(struct lw_master *master, int mode, uint64_t limit_ms, const struct lw_report **report);

// Frees a master. Unless it was shut down completely, this is a fast shutdown that blocks for drop_timeout_ms at most.
// Then it waits some seconds at most until the connections of agents have ended. Within a callback it does not block.
// Calls on other threads, workers, tickets and leases do not keep it from the shutdown; workers, tickets and leases
// are still to be freed. Call it without an interpreter's lock: it waits for callbacks. NULL is no error.
lw_code lw_master_free(struct lw_master *master);

// Ends a build, wherever it is, as lw_ticket_cancel does. LW_ERROR_ENDED: it has ended already, or never was.
lw_code lw_master_cancel(struct lw_master *master, uint64_t build);

// Where a build is and, while it waits, what stands in its way, as a JSON object: id, state, history, text and more.
// Free json with lw_free. LW_ERROR_ENDED: it has ended, or never was. Does not block.
lw_code lw_master_build_status(struct lw_master *master, uint64_t build, const char **json);

// A page of the builds that wait, as a JSON object: total, waiting (the best claim first), paused (builds between two
// attempts; on the first page), next, text. limit: how many builds it has at most; 1000 at most. from: NULL for the
// first page, or next of the page before, which is null on the last one. Free json with lw_free. Does not block.
lw_code lw_master_queue(struct lw_master *master, const char *from, size_t limit, const char **json);

// Finds the worker of this name. Free it with lw_worker_free. LW_ERROR_ENDED: there is none.
lw_code lw_master_worker(struct lw_master *master, const char *name, struct lw_worker **worker);

// What the worker is doing and why, as a JSON object: name, state, epoch, call, attached, leases, waiting, next,
// details, last_failure, text and more. Free json with lw_free. Does not block.
lw_code lw_worker_status(struct lw_worker *worker, const char **json);

// Takes no new builds and starts nothing until it is unpaused. Builds that run go on, and so does a start that is under
// way; the idle policy still holds. Builds of the queue wait for other workers. Does not block.
lw_code lw_worker_pause(struct lw_worker *worker);

// Takes builds again: ends a pause, a quarantine, and the wait until something that was left behind is gone. Does not
// block.
lw_code lw_worker_unpause(struct lw_worker *worker);

// Stops the instance, if there is one: after its builds, or at once when fast is not 0; leases that are out end then.
// Builds that wait in the queue may cause the next start of this worker, unless it is paused.
//
// Blocks until it is gone, at most for timeout_ms: LW_ERROR_TIMEOUT then, and it is stopped all the same; 0 does not
// wait, and neither does a call within a callback. Call it without an interpreter's lock: it waits for callbacks.
lw_code lw_worker_insubstantiate(struct lw_worker *worker, int fast, uint64_t timeout_ms);

// Frees the handle of a worker; the worker stays. NULL is no error.
lw_code lw_worker_free(struct lw_worker *worker);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* LATENT_WORKER_H */
