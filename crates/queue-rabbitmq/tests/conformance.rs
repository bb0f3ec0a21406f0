//! Filled in with the consumer.

fn main() {}
