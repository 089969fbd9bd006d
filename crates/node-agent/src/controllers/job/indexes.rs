//! Sets of completion indexes in the form of a job's status: `0,3-5,9`.

use std::collections::BTreeSet;

/// Completion indexes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Indexes(pub(crate) BTreeSet<i32>);

impl Indexes {
    /// Reads a status field; what is not an index below `end` is left out.
    pub(crate) fn parse(text: &str, end: i32) -> Self {
        let mut indexes = BTreeSet::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
                indexes.extend(first.max(0)..=last.min(end - 1));
            }
        }
        Self(indexes)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> i32 {
        i32::try_from(self.0.len()).unwrap_or(i32::MAX)
    }
}

impl std::fmt::Display for Indexes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut rest = self.0.iter().copied().peekable();
        let mut separator = "";
        while let Some(first) = rest.next() {
            let mut last = first;
            while let Some(next) = rest.next_if(|next| *next == last + 1) {
                last = next;
            }
            match last - first {
                0 => write!(f, "{separator}{first}")?,
                // As Kubernetes writes it: two neighbours are no range.
                1 => write!(f, "{separator}{first},{last}")?,
                _ => write!(f, "{separator}{first}-{last}")?,
            }
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_written() {
        for (text, written) in [
            ("", ""),
            ("0", "0"),
            ("0-2,4", "0-2,4"),
            ("0,1", "0,1"),
            ("3-9,0", "0,3-7"),
            ("5-x,-2,1", "1"),
        ] {
            assert_eq!(Indexes::parse(text, 8).to_string(), written, "{text}");
        }
        assert_eq!(Indexes::parse("0-4,6", 10).len(), 6);
    }

    #[test]
    fn what_is_written_is_read_back() {
        for bits in 0u32..256 {
            let indexes = Indexes((0..8).filter(|bit| bits & (1 << bit) != 0).collect());
            assert_eq!(Indexes::parse(&indexes.to_string(), 8), indexes);
        }
    }
}
