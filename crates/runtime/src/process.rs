//! Facts and limits of the own process.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Why the limit on open files was not raised.
#[derive(Debug, thiserror::Error)]
#[error(
    "the limit on open files could not be raised: {0}; connections beyond the soft limit will fail"
)]
pub struct RaiseLimitError(#[from] nix::Error);

/// Raises the soft limit on open files to the hard limit and returns it.
pub fn raise_open_file_limit() -> Result<u64, RaiseLimitError> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// The soft limit on open files, or `None` where the system does not say.
pub fn max_open_files() -> Option<u64> {
    getrlimit(Resource::RLIMIT_NOFILE)
        .ok()
        .map(|(soft, _)| soft)
}

/// How many files the process has open now, or `None` where `/proc` is not mounted.
pub fn open_files() -> Option<u64> {
    // The directory handle of this very listing is one of the entries.
    let count = std::fs::read_dir("/proc/self/fd").ok()?.count();
    Some(count.saturating_sub(1) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_files_and_raises_the_limit() {
        let hard = raise_open_file_limit().unwrap();
        assert_eq!(max_open_files(), Some(hard));
        let open = open_files().unwrap();
        assert!(open >= 3 && open <= hard, "{open}");
    }
}
