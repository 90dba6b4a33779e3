//! What was once measured and must stay so: how builds are placed and what is started for them, through the public API
//! on virtual time.

mod blame;
mod claims;
mod farm;
mod hangs;
mod order;
