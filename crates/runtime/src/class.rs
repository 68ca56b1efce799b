//! Whose fault an error is.

/// Sorts errors by culprit; retry, log level and status code follow from it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Class {
    /// The caller asked for something that cannot be granted; asking again gives the same answer.
    Caller,
    /// The other side sent something broken.
    Peer,
    /// May work when tried again later.
    Transient,
    /// Will not work until a person changes something.
    Permanent,
    /// Should be impossible.
    Bug,
}
