//! A name as a person reads it, in the words of Go's `pkix.Name`: `O=SPIRE,C=US`.

use std::fmt;

use super::Subject;

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // RFC 4514 §2.1 starts with the last relative name.
        let single = |value: &String| if value.is_empty() { Vec::new() } else { vec![value.clone()] };
        let names = [
            ("SERIALNUMBER", &single(&self.serial_number)),
            ("CN", &single(&self.common_name)),
            ("POSTALCODE", &self.postal_code),
            ("STREET", &self.street_address),
            ("ST", &self.province),
            ("L", &self.locality),
            ("OU", &self.organizational_unit),
            ("O", &self.organization),
            ("C", &self.country),
        ];
        let relative = names.iter().filter(|(_, values)| !values.is_empty()).map(|(kind, values)| {
            values.iter().map(|value| format!("{kind}={}", escaped(value))).collect::<Vec<_>>().join("+")
        });
        f.write_str(&relative.collect::<Vec<_>>().join(","))
    }
}

/// RFC 4514 §2.4.
fn escaped(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let mut text = String::with_capacity(value.len());
    for (place, letter) in value.chars().enumerate() {
        let special = matches!(letter, ',' | '+' | '"' | '\\' | '<' | '>' | ';')
            || (place == 0 && matches!(letter, ' ' | '#'))
            || (place == last && letter == ' ');
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

    #[test]
    fn a_name_reads_as_in_go() {
        assert_eq!(Subject::svid_default().to_string(), "O=SPIRE,C=US");
        let subject = Subject {
            country: vec!["US".into()],
            organization: vec!["a, b".into(), "c".into()],
            common_name: "#x ".into(),
            serial_number: "42".into(),
            ..Subject::default()
        };
        assert_eq!(subject.to_string(), "SERIALNUMBER=42,CN=\\#x\\ ,O=a\\, b+O=c,C=US");
        assert_eq!(Subject::default().to_string(), "");
    }
}
