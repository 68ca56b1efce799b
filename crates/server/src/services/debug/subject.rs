//! Distinguished names as text, in the form of RFC 2253 that Go gives them.

use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

/// Attributes with a name, by the last number of `2.5.4.…`, in the order of the text.
const NAMED: [(u64, &str); 9] = [
    (5, "SERIALNUMBER"),
    (3, "CN"),
    (17, "POSTALCODE"),
    (9, "STREET"),
    (8, "ST"),
    (7, "L"),
    (11, "OU"),
    (10, "O"),
    (6, "C"),
];

/// `CN=…,O=…,C=…`; other attributes follow by number. Empty for what is no name.
pub(super) fn text(der: &[u8]) -> String {
    let Ok((_, name)) = X509Name::from_der(der) else { return String::new() };
    let attributes: Vec<_> = name.iter_attributes().collect();
    let number = |oid: &x509_parser::der_parser::oid::Oid<'_>| {
        let arcs: Vec<u64> = oid.iter()?.collect();
        (arcs.len() == 4 && arcs[..3] == [2, 5, 4]).then_some(arcs[3])
    };
    let mut parts = Vec::new();
    for (arc, label) in NAMED {
        let values = attributes.iter().filter(|each| number(each.attr_type()) == Some(arc));
        let values: Vec<_> =
            values.map(|each| format!("{label}={}", escaped(each.as_str().unwrap_or_default()))).collect();
        if !values.is_empty() {
            parts.push(values.join("+"));
        }
    }
    let named = |arc: Option<u64>| arc.is_some_and(|arc| NAMED.iter().any(|(known, _)| *known == arc));
    for each in attributes.iter().rev().filter(|each| !named(number(each.attr_type()))) {
        let value = each.attr_value();
        // Tag, length and value; Go shows what it has no name for as DER.
        let der = [&[value.header.tag().0 as u8, value.data.len() as u8], value.data].concat();
        parts.push(format!("{}=#{}", each.attr_type().to_id_string(), hex::encode(der)));
    }
    parts.join(",")
}

fn escaped(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let mut text = String::new();
    for (place, letter) in value.chars().enumerate() {
        let special = match letter {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' => true,
            '#' => place == 0,
            ' ' => place == 0 || place == last,
            _ => false,
        };
        if special {
            text.push('\\');
        }
        text.push(letter);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use vouchsafe_ca::x509::Subject;

    #[test]
    fn a_name_reads_as_in_go() {
        let subject = Subject {
            country: vec!["US".into()],
            organization: vec!["SPIRE, Inc".into(), "b".into()],
            common_name: "a #1 ".into(),
            ..Subject::default()
        };
        assert_eq!(text(&subject.to_der()), "CN=a #1\\ ,O=b+O=SPIRE\\, Inc,C=US");
        assert_eq!(text(b"x"), "");
        assert_eq!(text(&Subject::default().to_der()), "");
    }
}
