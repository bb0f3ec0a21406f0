//! End-to-end tests across crates and brokers: each file beside this one is a test of its own.
