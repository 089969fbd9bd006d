//! Builds again when a chart gets a new file.

fn main() {
    println!("cargo::rerun-if-changed=../../charts");
}
