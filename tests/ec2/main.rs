//! The driver of machines against moto, and against what stands before it and makes it go wrong.
//!
//! All need `moto_server`, from `pip install 'moto[server,ec2]'`, named by `TEST_MOTO_SERVER`.

mod basics;
mod checks;
mod conformance;
mod failures;
mod farm;
mod kept;
mod many;
mod masters;
mod permissions;
mod support;
