use proptest::prelude::*;

use super::*;

fn parsed(text: &str) -> Body {
    parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn problem(text: &str) -> String {
    match parse(text) {
        Ok(body) => panic!("accepted: {body:?}"),
        Err(error) => error.to_string(),
    }
}

/// A compact form without positions, to compare.
fn shape(body: &Body) -> String {
    fn value(given: &Value) -> String {
        match &given.kind {
            Kind::String(text) => format!("{text:?}"),
            Kind::Number(text) => text.clone(),
            Kind::Bool(flag) => flag.to_string(),
            Kind::List(values) => format!("[{}]", values.iter().map(value).collect::<Vec<_>>().join(",")),
            Kind::Object(body) => shape(body),
        }
    }
    let items: Vec<_> =
        body.items.iter().map(|item| format!("{:?}:{}", item.key, value(&item.value))).collect();
    format!("{{{}}}", items.join(","))
}

#[test]
fn what_the_second_version_of_the_language_refuses_is_read() {
    for (text, expected) in [
        ("a = 1\nb = \"x\"", r#"{"a":1,"b":"x"}"#),
        ("a = { b = 1 c = 2 }", r#"{"a":{"b":1,"c":2}}"#),
        ("a { b = 1, c = 2, }", r#"{"a":{"b":1,"c":2}}"#),
        ("a = [1, 2,]", r#"{"a":[1,2]}"#),
        ("a = [{b = 1}, {b = 2}]", r#"{"a":[{"b":1},{"b":2}]}"#),
        (r#"plugins { "X" {} }"#, r#"{"plugins":{"X":{}}}"#),
        (
            r#"KeyManager "disk" { plugin_data { keys_path = "k" } }"#,
            r#"{"KeyManager":{"disk":{"plugin_data":{"keys_path":"k"}}}}"#,
        ),
        (r#"NodeAttestor "x" plugin_data { }"#, r#"{"NodeAttestor":{"x":{"plugin_data":{}}}}"#),
        ("a = 0x1F b = -3 c = 1.5e-3", r#"{"a":0x1F,"b":-3,"c":1.5e-3}"#),
        ("# one\n// two\n/* three\n */ a = true", r#"{"a":true}"#),
        ("a = \"q\\\"\\n\\u00e9\\101\\x41\"", "{\"a\":\"q\\\"\\néAA\"}"),
        ("a = \"${env(\"X\")}\"", "{\"a\":\"${env(\\\"X\\\")}\"}"),
        ("a = <<EOF\none\n  two\nEOF\nb = 1", "{\"a\":\"one\\n  two\\n\",\"b\":1}"),
        ("a = <<-EOF\n    one\n      two\n    EOF\n", "{\"a\":\"one\\n  two\\n\"}"),
        ("", "{}"),
    ] {
        assert_eq!(shape(&parsed(text)), expected, "{text}");
    }
}

#[test]
fn json_says_the_same_as_the_native_syntax() {
    let native = "server { port = 8081 ids = [\"a\", \"b\"] on = true }\nplugins { KeyManager \"memory\" { plugin_data {} } }";
    let json = r#" {"server": {"port": 8081, "ids": ["a", "\u0062"], "on": true},
        "plugins": {"KeyManager": {"memory": {"plugin_data": {}}}}}"#;
    assert_eq!(shape(&parsed(native)), shape(&parsed(json)));
}

#[test]
fn mistakes_are_named_with_their_place() {
    for (text, expected) in [
        ("a = ", "1:5: expected a value, found the end of the file"),
        ("\n a b", "2:5: expected `=` or `{` after the key `b`, found the end of the file"),
        ("a {\n b = 1\n", "1:3: this `{` is not closed by `}`"),
        ("a = [1 2]", "1:8: expected `,` or `]`, found the number 2"),
        ("a = [1", "1:5: this `[` is not closed by `]`"),
        ("a = \"x\nb = 1", "1:5: this string is not closed by `\"` on its line"),
        ("a = 1h", "1:5: `1h` is not a number; put text such as a duration in quotes: \"1h\""),
        ("a = debug", "1:5: text needs quotes: write \"debug\""),
        ("a = \"\\.\"", "1:6: `\\.` is not an escape; write `\\\\.` for a backslash"),
        ("a = <<EOF\nx", "1:5: this here-document is not closed by a line `EOF`"),
        ("}", "1:1: expected a key, found `}`"),
        ("= 1", "1:1: expected a key, found `=`"),
        ("a b = 1", "1:5: after several keys comes `{`, not `=`"),
        ("a = 1 /* x", "1:7: this comment is not closed by `*/`"),
        ("a = é;", "1:5: text needs quotes: write \"é\""),
        ("a ; 1", "1:3: the character ';' means nothing here"),
        (r#"{"a": nope}"#, "1:7: text needs quotes: write \"nope\""),
        (r#"{"a": null}"#, "1:7: null has no meaning here; leave the key out"),
        (r#"{"a": 1,}"#, "1:9: expected a key in quotes"),
        (r#"{"a": 1} x"#, "1:10: nothing may follow the closing `}`"),
        (r#"{"a" 1}"#, "1:6: expected `:` after the key"),
        (r#"{"a": 01}"#, "1:7: `01` is not a number"),
    ] {
        assert_eq!(problem(text), expected, "{text}");
    }
}

#[test]
fn nesting_and_size_are_bounded() {
    let levels = 100_000;
    for bomb in [
        format!("a = {}", "[".repeat(levels)),
        "a {".repeat(levels),
        "a ".repeat(levels),
        format!("{{\"a\":{}", "[".repeat(levels)),
        "{\"a\":".repeat(levels),
        format!("{} {{", "\"k\" ".repeat(levels)),
    ] {
        assert!(problem(&bomb).contains("levels inside each other"), "{}", &bomb[..20]);
    }
    assert!(problem(&" ".repeat(MAX_BYTES + 1)).contains("at most 1048576 are read"));
    let allowed = format!("a = {}1{}", "[".repeat(MAX_NESTING), "]".repeat(MAX_NESTING));
    parsed(&allowed);
}

/// Values that can be written in both forms.
fn values() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::Value;
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[^\\x00-\\x1f$]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-zA-Z_][a-zA-Z0-9_.-]{0,8}", inner, 0..4)
                .prop_map(|map| Value::from(map.into_iter().collect::<serde_json::Map<_, _>>())),
        ]
    })
}

fn native(value: &serde_json::Value) -> String {
    use serde_json::Value;
    match value {
        Value::String(text) => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
        Value::Array(values) => format!("[{}]", values.iter().map(native).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let items: Vec<_> =
                map.iter().map(|(key, value)| format!("\"{key}\" = {}", native(value))).collect();
            format!("{{ {} }}", items.join(" "))
        }
        other => other.to_string(),
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_without_a_panic(text in "\\PC{0,200}") {
        let _ignored = parse(&text).is_ok();
    }

    #[test]
    fn any_text_made_of_the_language_is_read_or_refused_without_a_panic(
        text in "([a-c]|=|\\{|\\}|\\[|\\]|,|\"|\\\\|<<E\n|E\n|#|/\\*|\\*/|\\$\\{|\n|1| ){0,80}"
    ) {
        let _ignored = parse(&text).is_ok();
        let _ignored = parse(&format!("{{{text}")).is_ok();
    }

    #[test]
    fn what_is_written_is_read_back_in_both_forms(value in values()) {
        let json = serde_json::json!({ "root": value });
        let text = format!("root = {}", native(&json["root"]));
        prop_assert_eq!(shape(&parsed(&text)), shape(&parsed(&json.to_string())));
    }
}
