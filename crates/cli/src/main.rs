//! The ambit program: every role and every command.
fn main() {}
