//! When a certificate or a key counts.

/// Seconds since 1970, both ends included.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Period {
    pub(super) start: Option<i64>,
    pub(super) end: Option<i64>,
}

impl Period {
    pub(super) fn has(&self, unix: i64) -> bool {
        self.start.is_none_or(|start| start <= unix) && self.end.is_none_or(|end| unix <= end)
    }
}
