//! The promises of placement: every order of events in small worlds, long random histories in larger ones, and
//! scenarios on virtual time.

mod claims;
mod explore;
mod farm;
mod messages;
mod promises;
mod scenarios;
mod world;
