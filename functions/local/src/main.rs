//! Every function on one machine.
fn main() {}
