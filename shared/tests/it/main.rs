//! Integration tests of the library: one binary with a module for each subject.

// `cfg(test)` always holds here. It tells clippy that helpers are tests too, in which `unwrap` is allowed.
#[cfg(test)]
mod documents;
#[cfg(test)]
mod inbox_suite;
#[cfg(test)]
mod layers;
#[cfg(test)]
mod permissions;
#[cfg(test)]
mod poll;
#[cfg(test)]
mod publish;
#[cfg(test)]
mod rules_s3;
#[cfg(test)]
mod s3;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod semantics;
#[cfg(test)]
mod sqs;
#[cfg(test)]
mod store_aws;
#[cfg(test)]
mod store_local;
#[cfg(test)]
mod store_suite;
#[cfg(test)]
mod virustotal;
#[cfg(test)]
mod wire;
