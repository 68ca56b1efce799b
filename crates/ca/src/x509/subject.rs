//! Names of certificate holders.

use crate::der::reader::{DerError, Reader};
use crate::der::{Writer, tag};

mod text;

/// A distinguished name made of the usual attributes.
///
/// Written in the order of Go's `pkix.Name`: C, O, OU, L, ST, street, postal code, CN, serial number; several
/// values of one attribute share one relative name. Other attributes are lost when a name is parsed, as there.
/// Only for names that we give: the name of an issuer is never parsed and written again.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Subject {
    /// C
    pub country: Vec<String>,
    /// O
    pub organization: Vec<String>,
    /// OU
    pub organizational_unit: Vec<String>,
    /// L
    pub locality: Vec<String>,
    /// ST
    pub province: Vec<String>,
    /// street
    pub street_address: Vec<String>,
    /// postalCode
    pub postal_code: Vec<String>,
    /// CN; none if empty.
    pub common_name: String,
    /// serialNumber; none if empty.
    pub serial_number: String,
}

/// Most attributes of a name that is parsed.
pub const MAX_ATTRIBUTES: usize = 64;

/// Last byte of each attribute's OID (2.5.4.x), in the order of writing.
const CN: u8 = 3;
const SERIAL_NUMBER: u8 = 5;

impl Subject {
    /// `C=US, O=SPIRE`: what SVIDs have by default.
    #[must_use]
    pub fn svid_default() -> Self {
        Self::us("SPIRE")
    }

    /// `C=US, O=SPIFFE`: what CAs have by default.
    #[must_use]
    pub fn ca_default() -> Self {
        Self::us("SPIFFE")
    }

    fn us(organization: &str) -> Self {
        Self { country: vec!["US".into()], organization: vec![organization.into()], ..Self::default() }
    }

    /// Whether it has no attribute at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Reads a DER name, keeping the attributes above.
    ///
    /// # Errors
    ///
    /// [`DerError`] if it is no name, or has over [`MAX_ATTRIBUTES`] attributes.
    pub fn parse(der: &[u8]) -> Result<Self, DerError> {
        let mut subject = Self::default();
        let mut outer = Reader::new(der);
        let mut names = Reader::new(outer.expect(tag::SEQUENCE, "name")?);
        outer.finish("name")?;
        let mut seen = 0;
        while !names.is_empty() {
            let mut set = Reader::new(names.expect(tag::SET, "relative name")?);
            while !set.is_empty() {
                seen += 1;
                if seen > MAX_ATTRIBUTES {
                    return Err(DerError::Length { what: "name" });
                }
                let mut attribute = Reader::new(set.expect(tag::SEQUENCE, "attribute of the name")?);
                let kind = attribute.expect(tag::OID, "attribute of the name")?;
                let value = attribute.value("attribute of the name")?;
                attribute.finish("attribute of the name")?;
                subject.take(kind, value.content);
            }
        }
        Ok(subject)
    }

    fn take(&mut self, kind: &[u8], value: &[u8]) {
        let [0x55, 0x04, kind] = *kind else { return };
        let text = String::from_utf8_lossy(value).into_owned();
        match kind {
            6 => self.country.push(text),
            10 => self.organization.push(text),
            11 => self.organizational_unit.push(text),
            7 => self.locality.push(text),
            8 => self.province.push(text),
            9 => self.street_address.push(text),
            17 => self.postal_code.push(text),
            CN => self.common_name = text,
            SERIAL_NUMBER => self.serial_number = text,
            _ => {}
        }
    }

    /// The name as DER.
    #[must_use]
    pub fn to_der(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(64);
        self.write(&mut writer);
        writer.into_bytes()
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        let lists = [
            (6, &self.country),
            (10, &self.organization),
            (11, &self.organizational_unit),
            (7, &self.locality),
            (8, &self.province),
            (9, &self.street_address),
            (17, &self.postal_code),
        ];
        writer.nested(tag::SEQUENCE, |writer| {
            for (kind, values) in lists {
                write_relative(writer, kind, values);
            }
            for (kind, value) in [(CN, &self.common_name), (SERIAL_NUMBER, &self.serial_number)] {
                if !value.is_empty() {
                    write_relative(writer, kind, std::slice::from_ref(value));
                }
            }
        });
    }
}

fn write_relative(writer: &mut Writer, kind: u8, values: &[String]) {
    if let [value] = values {
        writer.nested(tag::SET, |writer| write_attribute(writer, kind, value));
        return;
    }
    if values.is_empty() {
        return;
    }
    // X.690 §11.6: "The encodings of the component values of a set-of value shall appear in ascending order".
    let mut encodings: Vec<Vec<u8>> = Vec::with_capacity(values.len());
    for value in values {
        let mut attribute = Writer::with_capacity(32);
        write_attribute(&mut attribute, kind, value);
        encodings.push(attribute.into_bytes());
    }
    encodings.sort();
    writer.nested(tag::SET, |writer| encodings.iter().for_each(|encoding| writer.raw(encoding)));
}

fn write_attribute(writer: &mut Writer, kind: u8, value: &str) {
    let string = if value.bytes().all(is_printable) { tag::PRINTABLE_STRING } else { tag::UTF8_STRING };
    writer.nested(tag::SEQUENCE, |writer| {
        writer.raw(&[tag::OID, 3, 0x55, 0x04, kind]);
        writer.value(string, value.as_bytes());
    });
}

/// X.680 §41.4, table 10: the characters of a PrintableString.
fn is_printable(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b" '()+,-./:=?".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_name_is_in_printable_strings_in_go_order() {
        let expected = hex::decode("301d310b3009060355040613025553310e300c060355040a13055350495245").unwrap();
        assert_eq!(Subject::svid_default().to_der(), expected);
    }

    #[test]
    fn names_round_trip_whatever_their_characters() {
        let subject = Subject {
            country: vec!["US".into()],
            organization: vec!["b".into(), "a".into()],
            common_name: "*.exämple.org".into(),
            serial_number: "42".into(),
            ..Subject::default()
        };
        let der = subject.to_der();
        let mut expected = subject.clone();
        expected.organization.sort();
        assert_eq!(Subject::parse(&der).unwrap(), expected);
        assert_eq!(Subject::parse(&der).unwrap().to_der(), der);
        assert!(der.windows(2).any(|pair| pair == [tag::UTF8_STRING, 14]), "CN is no PrintableString");
    }
}
