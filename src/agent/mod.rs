//! Agents that come over a network: any stock `buildbot-worker` 4.x attaches over WebSocket and runs builds.
//!
//! | part | what it does |
//! |---|---|
//! | [`msgpack`] | values and their bytes; pure |
//! | [`codec`] | messages as the master reads and writes them; pure |
//! | [`session`] | the master's side of one connection, as a value; pure |
//! | [`listener`] | accepts connections, bounds what is not attached yet, ends everything |
//! | [`handshakes`] | which connections make room for others before they have logged in; pure |
//! | [`handshake`] | from the first byte to an upgraded connection or a refusal |
//! | [`link`] | the master's side of one upgraded connection: its two threads, its commands |
//! | [`connected`] | the [`Agent`](crate::Agent) that leases use |
//! | [`sink`] | what waits for the reader of a command's output |
//! | [`client`] | the other side: an agent that connects to a master |
//! | [`budget`] | the memory that large messages of all connections share |
//! | [`wire`], [`outbox`] | either side of an upgraded connection: what waits to be written, and the reader of messages |
//! | [`errno`] | what the codes of failed file commands mean |
//! | [`transport`], `tls` | the bytes of a connection, in the clear or not |
//! | `fuzzing` | what a fuzzer drives: the pure parts of both sides; only there for that and its replay |
//! | [`threads`] | the threads of one listener or client: named, counted, joined with a bound |
//!
//! # What a peer can make the other side keep
//!
//! No list, map or buffer grows with what a peer sends or leaves unread. A test compares the numbers in these tables
//! with the constants, and checks that the named tests exist.
//!
//! | of each connection, in the master | at most | test |
//! |---|---|---|
//! | request to log in | 16 KiB | `a5_a_request_to_log_in_is_bounded` |
//! | unfinished message before it has attached | 1 MiB | `a5_an_unfinished_message_has_a_length_and_a_time` |
//! | unfinished message, and the memory of the longest one | `max_message_size`, 8 MiB by default | `a5_an_unfinished_message_has_a_length_and_a_time` |
//! | unfinished message that needs no share of the budget | 512 KiB | `a5_pings_do_not_hide_the_parts_of_a_message` |
//! | what is read ahead, twice with TLS | 16 KiB | `a5_a_frame_of_4_gib_is_refused_before_it_comes` |
//! | answers that the worker does not read, and one more of each transfer | 768 KiB | `a5_answers_that_are_not_read_stop_the_reading` |
//! | other messages that it does not read, and one more of each caller | 256 KiB | `there_is_room_when_enough_is_written_and_after_the_end` |
//! | time for 256 KiB of what it is sent | `write_timeout`, 10 s by default | `a6_a_write_has_a_deadline_as_a_whole` |
//! | commands that have not ended | 256 | `a5_commands_that_a_worker_never_ends_are_bounded` |
//! | requests that wait for an answer that matters | 1 of each command | `a5_what_a_worker_never_answers_takes_no_room` |
//! | output of each command that waits for its reader | 64 pieces of 64 KiB | `a_full_sink_waits_for_its_reader_and_loses_nothing` |
//! | output of each command that has no reader | 0 | `a5_output_that_has_no_reader_any_more_is_not_kept` |
//! | answers of each command that are held back | 64 | `a5_answers_to_output_that_nobody_reads_are_held_back_within_a_bound` |
//! | steps of each transfer that wait for the copying thread, 256 KiB each | 1 | `a5_a_second_step_of_a_transfer_before_the_first_is_answered_is_a_violation` |
//! | names of a directory | 100000 | `names_and_status_are_read_and_bounded` |
//! | words about a failure | 1000 bytes | `a5_the_words_of_a_failure_are_bounded` |
//! | each text that the worker says of itself | 4096 bytes | `a5_what_a_worker_says_of_itself_is_bounded` |
//!
//! | of each listener | at most | test |
//! |---|---|---|
//! | unfinished messages of more than 512 KiB together | `message_budget`, 64 MiB by default | `a6_an_exhausted_budget_delays_large_messages_and_loses_nobody` |
//! | open handshakes, each with a thread | `max_handshakes`, 64 by default, and 2 for each instance; 4096 together | `the_limit_grows_with_the_agents_that_are_expected_and_is_bounded` |
//! | log-ins of each worker that have not attached | 1, and 1 that is sent away | `a1_a3_a_secret_lets_one_connection_in_at_a_time` |
//!
//! | of our agent | at most | test |
//! |---|---|---|
//! | unfinished message | 1024 MiB | `a5_what_the_commands_of_a_master_hold_is_bounded` |
//! | commands that run, each with a thread | 256 | `commands_are_bounded_and_make_room_when_they_end` |
//! | messages that have started them, together | 1024 MiB | `a5_what_the_commands_of_a_master_hold_is_bounded` |
//! | bytes of an answer | as many as were asked for | `a5_an_answer_is_no_longer_than_was_asked_for` |
//! | answers that the master does not read | 768 KiB | `answers_count_until_they_are_written` |
//! | other messages that it does not read, and one more of each command | 256 KiB | `there_is_room_when_enough_is_written_and_after_the_end` |
//! | messages of each command that are not answered | 8, and 4 at its end | `an_unread_command_is_interrupted` |
//!
//! Threads of a listener: `lw listen` for each address; for each attached agent `lw agent` (handshake, then reading) and
//! `lw agent out` (writing, heartbeat); for each open handshake one. No lock is held while a thread waits for a socket,
//! for a reader of output or in the runtime.

#[cfg(test)]
mod bounds;
mod budget;
mod client;
mod codec;
mod connected;
mod errno;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod handshake;
mod handshakes;
mod link;
mod listener;
mod msgpack;
mod outbox;
mod session;
mod sink;
mod threads;
#[cfg(feature = "tls")]
mod tls;
mod transport;
mod wire;

pub use client::{AgentClient, AgentClientBuilder, AgentClientError, AgentEnd, AgentStopper};
pub use connected::ConnectedAgent;
pub use listener::{AgentListener, AgentListenerBuilder};
