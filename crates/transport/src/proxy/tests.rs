use super::*;
use proptest::prelude::*;

fn parse(bytes: &[u8]) -> Result<(Option<SocketAddr>, usize), ProxyError> {
    let mut rest = bytes;
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let address = runtime.block_on(read_header(&mut rest))?;
    Ok((address, bytes.len() - rest.len()))
}

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    header.extend([command, family]);
    header.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    header.extend(body);
    header
}

#[test]
fn a_header_names_the_client_and_leaves_the_handshake_alone() {
    let check = |header: &[u8], expected: Option<&str>| {
        let mut bytes = header.to_vec();
        bytes.extend(b"\x16\x03\x01");
        let expected = expected.map(|text| text.parse().unwrap());
        assert_eq!(parse(&bytes).unwrap(), (expected, header.len()), "{header:?}");
    };
    check(b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 8081\r\n", Some("192.0.2.1:40000"));
    check(b"PROXY TCP6 2001:db8::1 2001:db8::2 1 8081\r\n", Some("[2001:db8::1]:1"));
    check(b"PROXY UNKNOWN\r\n", None);
    check(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None);
    let four = [192, 0, 2, 1, 192, 0, 2, 2, 0x9c, 0x40, 0x1f, 0x91];
    check(&v2(0x21, 0x11, &four), Some("192.0.2.1:40000"));
    check(&v2(0x21, 0x11, &[&four[..], &[0x04, 0, 1, 9]].concat()), Some("192.0.2.1:40000"));
    let mut six = [0; 36];
    (six[0], six[1], six[15], six[33]) = (0x20, 0x01, 1, 7);
    check(&v2(0x21, 0x21, &six), Some("[2001::1]:7"));
    check(&v2(0x20, 0x00, &[]), None);
    check(&v2(0x20, 0x11, &four), None);
    check(&v2(0x21, 0x00, &[]), None);
    check(&v2(0x21, 0x31, &[0; 216]), None);
}

#[test]
fn what_is_no_header_is_refused() {
    let check = |bytes: &[u8]| assert!(matches!(parse(bytes), Err(ProxyError::Malformed)), "{bytes:?}");
    check(b"PROXY TCP4 192.0.2.1 192.0.2.2 40000\r\n");
    check(b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 8081\n");
    check(b"PROXY TCP4 2001:db8::1 192.0.2.2 40000 8081\r\n");
    check(b"PROXY TCP6 192.0.2.1 192.0.2.2 40000 8081\r\n");
    check(b"PROXY TCP4 192.0.2.1 192.0.2.2 040 8081\r\n");
    check(b"PROXY TCP4 192.0.2.1 192.0.2.2 +40 8081\r\n");
    check(b"PROXY TCP4  192.0.2.1 192.0.2.2 40 8081\r\n");
    check(b"POST / HTTP/1.1\r\n");
    check(&[b'P'; 200]);
    check(&v2(0x21, 0x11, &[0; 11]));
    check(&v2(0x21, 0x21, &[0; 35]));
    check(&v2(0x31, 0x11, &[0; 12]));
    check(&v2(0x22, 0x11, &[0; 12]));
    check(&v2(0x21, 0x41, &[0; 12]));
    check(&v2(0x20, 0x00, &[0; MAX_HEADER]));
    assert!(matches!(parse(b"PROXY TCP4"), Err(ProxyError::Io(_))), "ended early");
}

#[test]
fn a_network_holds_what_begins_alike() {
    let check = |network: &str, address: &str, expected| {
        let network: Network = network.parse().unwrap();
        assert_eq!(network.contains(address.parse().unwrap()), expected, "{network:?} {address}");
    };
    check("10.1.0.0/16", "10.1.255.255", true);
    check("10.1.0.0/16", "10.2.0.0", false);
    check("10.1.2.3/8", "10.200.0.1", true);
    check("10.1.0.0/16", "::ffff:10.1.0.1", true);
    check("0.0.0.0/0", "203.0.113.9", true);
    check("0.0.0.0/0", "2001:db8::1", false);
    check("127.0.0.1/32", "127.0.0.1", true);
    check("127.0.0.1/32", "127.0.0.2", false);
    check("2001:db8::/32", "2001:db8:ffff::1", true);
    check("2001:db8::/32", "2001:db9::1", false);
    check("::/0", "2001:db9::1", true);
    for wrong in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/+8", "::/129", "x/8", "10.0.0.0/", "10.0.0/8"] {
        assert!(wrong.parse::<Network>().is_err(), "{wrong}");
    }
}

proptest! {
    #[test]
    fn a_header_of_version_1_is_read_back(source: Ipv4Addr, port: u16) {
        let header = format!("PROXY TCP4 {source} 127.0.0.1 {port} 8081\r\n");
        let expected = SocketAddr::new(source.into(), port);
        prop_assert_eq!(parse(header.as_bytes()).unwrap(), (Some(expected), header.len()));
    }

    #[test]
    fn nothing_panics_and_no_more_is_read_than_the_bound(bytes in prop::collection::vec(any::<u8>(), 1..3000)) {
        if let Ok((_, read)) = parse(&bytes) {
            prop_assert!(read <= MAX_HEADER);
        }
    }
}
