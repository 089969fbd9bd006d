//! Real clusters: each test makes its own, with a name and state of its own,
//! and removes it. They need root.

mod controllers;
mod families;
mod faults;
mod harness;
mod lifecycle;
mod network;
mod policies;
mod services;
mod workloads;
mod world;
