//! Instances that are machines of Amazon EC2.
#![allow(dead_code, unreachable_pub, unused_imports)]

pub(crate) mod aws;
pub use aws::AwsCredentials;
