//! The waypoint as a program of its own; its arguments (`proxy waypoint …`) say nothing that its
//! environment does not.

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> anyhow::Result<()> {
    ambit_l7::run()
}
