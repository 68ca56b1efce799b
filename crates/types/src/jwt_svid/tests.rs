use super::*;
use proptest::prelude::*;
use serde_json::json;

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn token(header: &Value, claims: &Value) -> String {
    format!("{}.{}.c2ln", encode(header), encode(claims))
}

fn header() -> Value {
    json!({"alg": "ES256", "kid": "k1", "typ": "JWT"})
}

fn claims() -> Value {
    json!({"sub": "spiffe://example.org/a", "aud": ["reports"], "exp": 200, "iat": 100})
}

/// A copy of `value` with one member set, or removed by null.
fn with(mut value: Value, name: &str, member: Value) -> Value {
    let object = value.as_object_mut().unwrap();
    object.remove(name);
    if !member.is_null() {
        object.insert(name.to_owned(), member);
    }
    value
}

#[track_caller]
fn check(token: &str, expected: Result<(), JwtSvidError>) {
    assert_eq!(JwtSvid::parse_unverified(token).map(drop), expected, "{token}");
}

#[test]
fn a_token_says_who_for_whom_and_until_when() {
    let claims = with(with(claims(), "nbf", json!(90)), "extra", json!({"a": [1, 2]}));
    let text = token(&header(), &claims);
    let svid = JwtSvid::parse_unverified(&text).unwrap();
    assert_eq!(svid.id.as_str(), "spiffe://example.org/a");
    assert_eq!(svid.audience, ["reports"]);
    assert_eq!((svid.expires_at, svid.issued_at, svid.not_before), (200, Some(100), Some(90)));
    assert_eq!((svid.key_id.as_str(), svid.algorithm), ("k1", JwsAlgorithm::Es256));
    assert_eq!(Value::Object(svid.claims.clone()), claims);
    assert_eq!(svid.token.as_str(), text);
    assert_eq!(svid.signing_input(), text.strip_suffix(".c2ln").unwrap());
    assert_eq!(svid.signature(), b"sig");
}

#[test]
fn the_token_does_not_show_in_debug_output() {
    let text = token(&header(), &claims());
    let shown = format!("{:?}", JwtSvid::parse_unverified(&text).unwrap());
    assert!(!shown.contains(&text) && !shown.contains("c2ln") && !shown.contains(&encode(&claims())));
}

#[test]
fn only_compact_serialization_is_read() {
    for text in ["", "a", "a.b", "a.b.c.d", r#"{"payload":"","signatures":[]}"#] {
        check(text, Err(JwtSvidError::NotCompact));
    }
    let good = token(&header(), &claims());
    let (input, _) = good.rsplit_once('.').unwrap();
    check(&good, Ok(()));
    check(&format!("{input}."), Err(JwtSvidError::Signature));
    check(&format!("{input}.a=b"), Err(JwtSvidError::Signature));
    check(&format!("{input}.c2ln\n"), Err(JwtSvidError::Signature));
    check(&format!(" {good}"), Err(JwtSvidError::Header));
    check(&format!("!.{}.c2ln", encode(&claims())), Err(JwtSvidError::Header));
    check(&format!("{}.!.c2ln", encode(&header())), Err(JwtSvidError::Claims));
    check(&token(&json!([]), &claims()), Err(JwtSvidError::Header));
    check(&token(&header(), &json!("text")), Err(JwtSvidError::Claims));
    check(&"a".repeat(MAX_TOKEN_BYTES + 1), Err(JwtSvidError::TooLong));
}

#[test]
fn all_algorithms_of_the_standard_are_known_and_no_other() {
    for algorithm in JwsAlgorithm::ALL {
        let text = token(&with(header(), "alg", json!(algorithm.as_str())), &claims());
        assert_eq!(JwtSvid::parse_unverified(&text).unwrap().algorithm, algorithm);
    }
    for alg in [
        json!("none"),
        json!("None"),
        json!("HS256"),
        json!("EdDSA"),
        json!("es256"),
        json!(""),
        json!(1),
        json!(null),
    ] {
        check(&token(&with(header(), "alg", alg), &claims()), Err(JwtSvidError::Algorithm));
    }
}

#[test]
fn the_header_holds_nothing_but_algorithm_key_and_type() {
    check(&token(&with(header(), "typ", json!("JOSE")), &claims()), Ok(()));
    check(&token(&with(header(), "typ", json!(null)), &claims()), Ok(()));
    for typ in [json!("jwt"), json!("at+jwt"), json!(""), json!(1)] {
        check(&token(&with(header(), "typ", typ), &claims()), Err(JwtSvidError::Type));
    }
    for kid in [json!(null), json!(""), json!(7), json!("k".repeat(1025))] {
        check(&token(&with(header(), "kid", kid), &claims()), Err(JwtSvidError::KeyId));
    }
    for name in ["crit", "jku", "jwk", "x5u", "x5c", "cty", "zip", "ALG"] {
        check(&token(&with(header(), name, json!("x")), &claims()), Err(JwtSvidError::UnknownHeader));
    }
}

#[test]
fn the_subject_is_a_spiffe_id() {
    for sub in [json!(null), json!(""), json!(7)] {
        check(&token(&header(), &with(claims(), "sub", sub)), Err(JwtSvidError::NoSubject));
    }
    check(
        &token(&header(), &with(claims(), "sub", json!("alice"))),
        Err(JwtSvidError::Subject(SpiffeIdError::Scheme)),
    );
}

#[test]
fn the_audience_is_one_text_or_several() {
    let read = |aud| {
        JwtSvid::parse_unverified(&token(&header(), &with(claims(), "aud", aud))).map(|svid| svid.audience)
    };
    assert_eq!(read(json!("one")).unwrap(), ["one"]);
    assert_eq!(read(json!(["one", "two"])).unwrap(), ["one", "two"]);
    for aud in [json!(null), json!(""), json!([]), json!([""])] {
        assert_eq!(read(aud), Err(JwtSvidError::NoAudience));
    }
    for aud in [json!(7), json!({}), json!(["one", 7])] {
        assert_eq!(read(aud), Err(JwtSvidError::Claims));
    }
}

#[test]
fn times_are_numbers_with_or_without_a_fraction() {
    let read = |exp| {
        JwtSvid::parse_unverified(&token(&header(), &with(claims(), "exp", exp))).map(|svid| svid.expires_at)
    };
    assert_eq!(read(json!(200)), Ok(200));
    assert_eq!(read(json!(200.9)), Ok(200));
    assert_eq!(read(json!(-1)), Ok(-1));
    assert_eq!(read(json!(1e300)), Ok(i64::MAX));
    assert_eq!(read(json!(u64::MAX)), Ok(i64::MAX));
    assert_eq!(read(json!(null)), Err(JwtSvidError::NoExpiry));
    for exp in [json!("200"), json!(true), json!([200])] {
        assert_eq!(read(exp), Err(JwtSvidError::Claims));
    }
    check(&token(&header(), &with(claims(), "iat", json!("x"))), Err(JwtSvidError::Claims));
    check(&token(&header(), &with(claims(), "nbf", json!("x"))), Err(JwtSvidError::Claims));
}

#[track_caller]
fn check_times(now: i64, leeway: u64, expected: Result<(), JwtSvidError>) {
    let claims = with(claims(), "nbf", json!(110));
    let svid = JwtSvid::parse_unverified(&token(&header(), &claims)).unwrap();
    assert_eq!(svid.check_times(now, Duration::from_secs(leeway)), expected, "at {now} ± {leeway}");
}

#[test]
fn a_token_is_valid_from_its_start_until_before_its_end() {
    check_times(150, 0, Ok(()));
    check_times(110, 0, Ok(()));
    check_times(199, 0, Ok(()));
    check_times(200, 0, Err(JwtSvidError::Expired));
    check_times(209, 10, Ok(()));
    check_times(210, 10, Err(JwtSvidError::Expired));
    check_times(109, 0, Err(JwtSvidError::NotYetValid));
    check_times(100, 10, Ok(()));
    check_times(i64::MAX, u64::MAX, Ok(()));
    check_times(i64::MIN, 0, Err(JwtSvidError::NotYetValid));
}

#[test]
fn a_token_of_the_future_is_refused() {
    let svid = JwtSvid::parse_unverified(&token(&header(), &claims())).unwrap();
    assert_eq!(svid.check_times(99, Duration::ZERO), Err(JwtSvidError::IssuedInFuture));
    assert_eq!(svid.check_times(99, Duration::from_secs(1)), Ok(()));
}

#[test]
fn a_token_is_for_its_audience_only() {
    let svid =
        JwtSvid::parse_unverified(&token(&header(), &with(claims(), "aud", json!(["a", "b"])))).unwrap();
    assert_eq!(svid.check_audience(&["b"]), Ok(()));
    assert_eq!(svid.check_audience(&["x".to_owned(), "a".to_owned()]), Ok(()));
    let meant = vec!["a".to_owned(), "b".to_owned()];
    let refused = svid.check_audience(&["A"]).unwrap_err();
    assert_eq!(refused.to_string(), "expected audience in [\"A\"] (audience=[\"a\" \"b\"])");
    let accepted = Vec::new();
    assert_eq!(svid.check_audience::<&str>(&[]), Err(JwtSvidError::Audience { accepted, meant }));
}

proptest! {
    #[test]
    fn every_well_formed_token_round_trips(
        path in "[a-z]{1,10}",
        audience in prop::collection::vec("\\PC{1,20}", 1..4),
        exp in any::<i64>(),
        kid in "[A-Za-z0-9]{1,32}",
        signature in prop::collection::vec(any::<u8>(), 1..80),
    ) {
        let header = json!({"alg": "RS512", "kid": kid});
        let claims = json!({"sub": format!("spiffe://td/{path}"), "aud": audience, "exp": exp});
        let text = format!("{}.{}.{}", encode(&header), encode(&claims), URL_SAFE_NO_PAD.encode(&signature));
        let svid = JwtSvid::parse_unverified(&text).unwrap();
        prop_assert_eq!(svid.id.path(), format!("/{path}"));
        prop_assert_eq!(&svid.audience, &audience);
        prop_assert_eq!(svid.expires_at, exp);
        prop_assert_eq!(&svid.key_id, &kid);
        prop_assert_eq!(svid.signature(), signature.as_slice());
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[A-Za-z0-9_=.{}-]{0,80}") {
        if let Ok(svid) = JwtSvid::parse_unverified(&text) {
            prop_assert_eq!(svid.token.as_str(), text);
        }
    }
}
