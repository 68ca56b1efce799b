//! Finds the Pods in a list that arrives in pieces, without ever holding more than one of them. Pure.
//!
//! The list is `{"kind":"PodList", …, "items":[{…},{…}]}`, its keys in any order. The scanner follows strings and
//! brackets, which is enough to see where an element of `items` begins and ends; whether its inside is JSON finds out
//! who is given it. An element above [`MAX_POD`] is passed over and counted: no object of that size can be in the
//! cluster's store.

/// Where a list has been read to.
#[derive(Debug, Default)]
pub struct Scanner {
    place: Place,
    /// Open brackets around the byte that comes next, outside the elements of `items`.
    depth: u32,
    string: Option<Quoted>,
    /// The latest text at depth 1, while it may be a key.
    word: Vec<u8>,
    key_is_items: bool,
    items: bool,
    element: Element,
    /// How many elements were passed over because they are too large.
    pub oversized: usize,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Place {
    /// Before the first bracket.
    #[default]
    Before,
    /// In the object, not in `items`.
    Around,
    /// Between the elements of `items`; one may come.
    Items,
    /// After an element of `items`; a comma or the end must come.
    AfterItem,
    /// In an element.
    Element,
    /// After the last bracket.
    After,
}

/// In a string.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Quoted {
    Plain,
    /// After a backslash.
    Escaped,
}

#[derive(Debug, Default)]
struct Element {
    bytes: Vec<u8>,
    depth: u32,
    too_large: bool,
}

/// Why a list cannot be read. The texts begin as SPIRE's do.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// It does not begin with a bracket.
    #[error("invalid kubelet response: expected an object")]
    NoObject,
    /// There is no list of Pods in it.
    #[error("invalid kubelet response: expected an items array")]
    NoItems,
    /// Something else stands where a Pod should.
    #[error("invalid kubelet response: expected pods in the items array, not byte {found:#04x}")]
    NoPod {
        /// What stands there.
        found: u8,
    },
    /// It ends in the middle, or goes on after its end.
    #[error("unable to parse kubelet response: it {0}")]
    Shape(&'static str),
    /// A Pod is no JSON.
    #[error("unable to parse kubelet response: pod {number} is no JSON: {problem}")]
    Syntax {
        /// Which, counted from 1.
        number: usize,
        /// What is wrong.
        problem: String,
    },
    /// No node has so many Pods.
    #[error("the kubelet lists more than {max} pods")]
    TooManyPods {
        /// The bound.
        max: usize,
    },
}

/// Takes the Pods, one after the other.
pub trait TakePod {
    /// One whole Pod.
    ///
    /// # Errors
    ///
    /// What makes the list unusable.
    fn take_pod(&mut self, json: &[u8]) -> Result<(), ListError>;
}

impl Scanner {
    /// The next bytes of the list; Pods that end in them go to `taker`.
    ///
    /// # Errors
    ///
    /// [`ListError`]; what follows makes no sense then.
    pub fn scan(&mut self, mut bytes: &[u8], taker: &mut dyn TakePod) -> Result<(), ListError> {
        while let Some((first, rest)) = bytes.split_first() {
            bytes = match (self.place, self.string) {
                (Place::Element, _) => self.in_element(bytes, taker)?,
                (_, Some(quoted)) => {
                    self.in_string(*first, quoted);
                    rest
                }
                (place, None) => {
                    self.outside(place, *first)?;
                    rest
                }
            };
        }
        Ok(())
    }

    /// Whether the list was whole.
    ///
    /// # Errors
    ///
    /// [`ListError`].
    pub fn finish(&self) -> Result<(), ListError> {
        match self.place {
            Place::Before => Err(ListError::NoObject),
            Place::After if self.items => Ok(()),
            Place::After => Err(ListError::NoItems),
            _ => Err(ListError::Shape("ends in the middle")),
        }
    }

    fn outside(&mut self, place: Place, byte: u8) -> Result<(), ListError> {
        if byte.is_ascii_whitespace() {
            return Ok(());
        }
        match (place, byte) {
            (Place::Before, b'{') => (self.place, self.depth) = (Place::Around, 1),
            (Place::Before, _) => return Err(ListError::NoObject),
            (Place::After, _) => return Err(ListError::Shape("goes on after its end")),
            (Place::Items | Place::AfterItem, b']') => (self.place, self.depth) = (Place::Around, 1),
            (Place::Items, b'{') => {
                self.place = Place::Element;
                self.element.bytes.clear();
                self.element.bytes.push(b'{');
                (self.element.depth, self.element.too_large) = (1, false);
            }
            (Place::AfterItem, b',') => self.place = Place::Items,
            (Place::Items | Place::AfterItem, found) => return Err(ListError::NoPod { found }),
            (_, byte) => self.around(byte)?,
        }
        Ok(())
    }

    fn around(&mut self, byte: u8) -> Result<(), ListError> {
        if self.key_is_items && self.depth == 1 {
            return self.value_of_items(byte);
        }
        if byte == b'"' {
            if self.depth == 1 {
                self.word.clear();
            }
            self.string = Some(Quoted::Plain);
            return Ok(());
        }
        match byte {
            b'{' | b'[' if self.depth == MAX_DEPTH => return Err(ListError::Shape("is nested too deep")),
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth -= 1;
                if self.depth == 0 {
                    self.place = Place::After;
                }
            }
            b':' if self.depth == 1 => {
                self.key_is_items = self.word == b"items";
                self.word.clear();
            }
            _ => {}
        }
        Ok(())
    }

    /// An array; or `null`, which is how Go writes one that has no elements.
    fn value_of_items(&mut self, byte: u8) -> Result<(), ListError> {
        match byte {
            b'[' if self.word.is_empty() => {
                (self.place, self.depth, self.key_is_items, self.items) = (Place::Items, 2, false, true);
            }
            b',' | b'}' if self.word == b"null" => {
                (self.key_is_items, self.items) = (false, true);
                self.word.clear();
                return self.around(byte);
            }
            byte if b"null".get(self.word.len()) == Some(&byte) => self.word.push(byte),
            _ => return Err(ListError::NoItems),
        }
        Ok(())
    }

    fn in_string(&mut self, byte: u8, quoted: Quoted) {
        self.string = match (quoted, byte) {
            (Quoted::Plain, b'"') => None,
            (Quoted::Plain, b'\\') => Some(Quoted::Escaped),
            _ => Some(Quoted::Plain),
        };
        // A key that is longer than this is not `items`.
        if self.string.is_some() && self.depth == 1 && self.word.len() < MAX_WORD {
            self.word.push(byte);
        }
    }

    /// Reads on in an element, and gives back what follows what it has read.
    fn in_element<'a>(&mut self, bytes: &'a [u8], taker: &mut dyn TakePod) -> Result<&'a [u8], ListError> {
        let mut end = None;
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let plain = |byte: &u8| match self.string {
                Some(Quoted::Plain) => !matches!(byte, b'"' | b'\\'),
                Some(Quoted::Escaped) => false,
                None => !matches!(byte, b'"' | b'{' | b'}' | b'[' | b']'),
            };
            let skip = rest.iter().position(|byte| !plain(byte)).unwrap_or(rest.len());
            let Some(byte) = rest.get(skip) else { break };
            at += skip + 1;
            match (self.string, byte) {
                (Some(Quoted::Plain), b'"') => self.string = None,
                (Some(Quoted::Plain), _) => self.string = Some(Quoted::Escaped),
                (Some(Quoted::Escaped), _) => self.string = Some(Quoted::Plain),
                (None, b'"') => self.string = Some(Quoted::Plain),
                (None, b'{' | b'[') => self.element.depth += 1,
                (None, _) => self.element.depth -= 1,
            }
            if self.element.depth == 0 {
                end = Some(at);
                break;
            }
        }
        let (own, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
        self.element.take(own);
        if end.is_some() {
            self.place = Place::AfterItem;
            if self.element.too_large {
                self.oversized += 1;
            } else {
                taker.take_pod(&self.element.bytes)?;
            }
        }
        Ok(rest)
    }
}

impl Element {
    fn take(&mut self, bytes: &[u8]) {
        if self.too_large || self.bytes.len() + bytes.len() > MAX_POD {
            self.too_large = true;
            self.bytes.clear();
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }
}

/// Bytes of one Pod. A larger one is passed over. etcd takes 1.5 MiB for an object, and as JSON one byte of it may be six
/// (`\u0000`).
pub const MAX_POD: usize = 10 * 1024 * 1024;

/// Brackets around anything outside of Pods. More fail the list.
const MAX_DEPTH: u32 = 64;

/// Bytes of a key that are kept to compare.
const MAX_WORD: usize = 8;

#[cfg(test)]
mod tests;
