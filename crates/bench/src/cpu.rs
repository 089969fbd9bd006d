//! What processes have used: processor time to the nanosecond, resident memory.

use std::fs;

use anyhow::{Context, Result};

/// Processor time of processes so far, all threads, seconds.
pub fn seconds(processes: &[u32]) -> Result<f64> {
    let mut total = 0;
    for pid in processes {
        let tasks = fs::read_dir(format!("/proc/{pid}/task"))
            .with_context(|| format!("process {pid} has ended"))?;
        for task in tasks.flatten() {
            // A thread can end between the listing and the look.
            let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else {
                continue;
            };
            total += text
                .split(' ')
                .next()
                .and_then(|n| n.parse::<u64>().ok())
                .unwrap_or(0);
        }
    }
    Ok(total as f64 / 1e9)
}

/// Processor time of each thread whose name contains a word, seconds.
pub fn of_threads(pid: u32, word: &str) -> Result<Vec<f64>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .with_context(|| format!("process {pid} has ended"))?;
    let mut times = Vec::new();
    for task in tasks.flatten() {
        let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        if read("comm").contains(word) {
            let nanoseconds = read("schedstat");
            let nanoseconds = nanoseconds
                .split(' ')
                .next()
                .and_then(|n| n.parse::<u64>().ok());
            times.push(nanoseconds.unwrap_or(0) as f64 / 1e9);
        }
    }
    Ok(times)
}

/// Resident memory of a process, MB.
pub fn resident_mb(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .context("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024.0 / 1e6)
}
