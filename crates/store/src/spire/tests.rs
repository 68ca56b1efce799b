use super::*;

/// The parts of SPIRE's schema 25 that are read.
const SCHEMA: &str = include_str!("tests/schema.sql");

fn database(statements: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("datastore.sqlite3");
    let connection = Connection::open(&path).unwrap();
    connection.pragma_update(None, "journal_mode", "wal").unwrap();
    connection.execute_batch(SCHEMA).unwrap();
    connection.execute_batch(statements).unwrap();
    (folder, path)
}

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("domain.test").unwrap()
}

#[test]
fn an_entry_comes_with_everything_that_it_owns() {
    let (_folder, path) = database(
        "INSERT INTO registered_entries VALUES (7, '2026-11-21 11:57:20.532799960+00:00', '', 'e1', 'spiffe://domain.test/w',
             'spiffe://domain.test/node', 100, 1, 1, 2000000000, 3, 0, 'h', 60, x'08011001');
         INSERT INTO selectors VALUES (1, '', '', 7, 'unix', 'uid:0'), (2, '', '', 7, 'unix', 'gid:0');
         INSERT INTO dns_names VALUES (1, '', '', 7, 'b.test'), (2, '', '', 7, 'a.test');
         INSERT INTO bundles VALUES (1, '', '', 'spiffe://other.test', x'0a137370696666653a2f2f6f746865722e74657374');
         INSERT INTO federated_registration_entries VALUES (1, 7);",
    );
    let read = read(&path, &trust_domain()).unwrap();
    assert_eq!(read.left_out, Vec::<String>::new());
    let Record::Entry(entry) = &read.contents.records[0] else { panic!("{:?}", read.contents.records) };
    assert_eq!((entry.id.as_str(), entry.created_at, entry.revision_number), ("e1", 1_795_262_241, 3));
    assert_eq!((entry.x509_svid_ttl, entry.jwt_svid_ttl, entry.expires_at), (100, 60, 2_000_000_000));
    assert_eq!(entry.dns_names, ["b.test", "a.test"], "the first becomes the common name");
    assert_eq!(entry.federates_with, [TrustDomain::parse("other.test").unwrap()]);
    assert_eq!(entry.selectors.len(), 2);
    assert!(entry.admin && entry.downstream && !entry.store_svid);
    assert!(entry.disable_x509_svid_prefetch && entry.jwt_svid_include_jti);
}

#[test]
fn an_agent_keeps_its_serial_numbers_and_a_banned_one_its_ban() {
    let (_folder, path) = database(
        "INSERT INTO attested_node_entries VALUES
             (1, '', '', 'spiffe://domain.test/spire/agent/x509pop/aa', 'x509pop', '12', '2026-11-21 11:57:21+01:00',
              '13', '2026-11-21 11:57:21+00:00', 1, '1.15.3'),
             (2, '', '', 'spiffe://domain.test/spire/agent/join_token/t', 'join_token', '', '2026-11-21 11:57:21+00:00',
              NULL, NULL, 0, NULL);
         INSERT INTO node_resolver_map_entries VALUES (1, '', '', 'spiffe://domain.test/spire/agent/x509pop/aa', 'x509pop', 'subject:cn:a');",
    );
    let read = read(&path, &trust_domain()).unwrap();
    let [Record::Agent(first), Record::Agent(second)] = &read.contents.records[..] else {
        panic!("{:?}", read.contents.records)
    };
    assert_eq!((first.serial_number.as_str(), first.expires_at), ("12", 1_795_258_641));
    assert_eq!((first.new_serial_number.as_str(), first.new_expires_at), ("13", 1_795_262_241));
    assert!(first.can_reattest && first.selectors.len() == 1);
    assert!(second.is_banned() && second.selectors.is_empty());
}

#[test]
fn a_row_that_is_not_understood_is_named_and_the_rest_is_read() {
    let (_folder, path) = database(
        "INSERT INTO registered_entries VALUES
             (1, '2026-11-21 11:57:21+00:00', '', 'bad', 'nonsense', 'spiffe://domain.test/node', 0, 0, 0, 0, 0, 0, '', 0, NULL),
             (2, '2026-11-21 11:57:21+00:00', '', 'elsewhere', 'spiffe://other.test/w', 'spiffe://domain.test/node', 0, 0, 0, 0, 0, 0, '', 0, NULL),
             (3, '2026-11-21 11:57:21+00:00', '', 'good', 'spiffe://domain.test/w', 'spiffe://domain.test/node', 0, 0, 0, 0, 0, 0, '', 0, NULL);
         INSERT INTO selectors VALUES (1, '', '', 1, 'a', 'b'), (2, '', '', 2, 'a', 'b'), (3, '', '', 3, 'a', 'b');
         INSERT INTO bundles VALUES (1, '', '', 'spiffe://broken.test', x'ff');
         INSERT INTO join_tokens VALUES (1, '', '', 'secret-token', 5);",
    );
    let read = read(&path, &trust_domain()).unwrap();
    assert_eq!(read.contents.records.len(), 2, "{:?}", read.contents.records);
    assert_eq!(read.left_out.len(), 3);
    for (name, line) in
        ["entry bad: ", "entry elsewhere: ", "bundle spiffe://broken.test: "].iter().zip(&read.left_out)
    {
        assert!(line.starts_with(name), "{line}");
    }
    assert!(!format!("{read:?}").contains("secret-token"));
}

#[test]
fn a_bundle_keeps_its_sequence_number_and_its_tainted_keys() {
    let mut bundle = vouchsafe_types::bundle::Bundle::new(trust_domain());
    bundle.sequence_number = 9;
    bundle.refresh_hint = 300;
    bundle.jwt_authorities.push(vouchsafe_types::bundle::JwtAuthority {
        key_id: "k".into(),
        public_key_der: vec![1].into(),
        expires_at: 5,
        tainted: true,
    });
    assert_eq!(bundle::decode(&bundle::encode(&bundle)).unwrap(), bundle);
}

#[test]
fn federation_relationships_come_with_their_profile() {
    let (_folder, path) = database(
        "INSERT INTO federated_trust_domains VALUES
             (1, '', '', 'a.test', 'https://a.test/bundle', 'https_web', '', 0),
             (2, '', '', 'b.test', 'https://b.test', 'https_spiffe', 'spiffe://b.test/spire/server', 0),
             (3, '', '', 'c.test', 'https://c.test', 'smtp', '', 0);",
    );
    let read = read(&path, &trust_domain()).unwrap();
    let profiles: Vec<_> = read
        .contents
        .records
        .iter()
        .map(|record| match record {
            Record::Federation(relationship) => relationship.bundle_endpoint_profile.name(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(profiles, ["https_web", "https_spiffe"]);
    assert!(read.left_out[0].starts_with("federation relationship c.test: "), "{:?}", read.left_out);
}

#[test]
fn what_was_read_is_written_back_the_same() {
    let (_folder, path) = database(
        "INSERT INTO registered_entries VALUES (7, '2026-11-21 11:57:21.08+00:00', '', 'e1', 'spiffe://domain.test/w',
             'spiffe://domain.test/node', 100, 1, 1, 2000000000, 3, 0, 'h', 60, x'1001');
         INSERT INTO selectors VALUES (1, '', '', 7, 'unix', 'uid:0');
         INSERT INTO dns_names VALUES (1, '', '', 7, 'b.test'), (2, '', '', 7, 'a.test');
         INSERT INTO bundles VALUES (1, '', '', 'spiffe://other.test', x'0a137370696666653a2f2f6f746865722e74657374');
         INSERT INTO federated_registration_entries VALUES (1, 7);
         INSERT INTO attested_node_entries VALUES
             (1, '', '', 'spiffe://domain.test/spire/agent/x509pop/aa', 'x509pop', '12', '2026-11-21 11:57:21+01:00',
              '13', '2026-11-21 11:57:21+00:00', 1, '1.15.3');
         INSERT INTO node_resolver_map_entries VALUES
             (1, '', '', 'spiffe://domain.test/spire/agent/x509pop/aa', 'x509pop', 'subject:cn:a');
         INSERT INTO join_tokens VALUES (1, '', '', 'secret-token', 5);
         INSERT INTO federated_trust_domains VALUES
             (1, '', '', 'b.test', 'https://b.test', 'https_spiffe', 'spiffe://b.test/spire/server', 0);
         INSERT INTO ca_journals VALUES (1, '', '', x'0102', 'aa', '');",
    );
    let before = read(&path, &trust_domain()).unwrap();
    assert_eq!((before.contents.records.len(), before.left_out.len()), (5, 0), "{before:?}");
    let journals = [SpireJournal { data: vec![1, 2], active_x509_authority_id: "aa".into() }];
    let (_other, other) = database("INSERT INTO join_tokens VALUES (1, '', '', 'gone', 5);");
    write(&other, &before.contents.records, &journals).unwrap();
    let after = read(&other, &trust_domain()).unwrap();
    assert_eq!(after.contents, before.contents);
}

#[test]
fn a_log_that_was_left_is_read_and_can_be_folded_in() {
    let (_folder, path) = database("");
    let server = Connection::open(&path).unwrap();
    server.execute_batch("INSERT INTO join_tokens VALUES (1, '', '', 'token', 5)").unwrap();
    assert_eq!(read(&path, &trust_domain()).unwrap().contents.records.len(), 1);
    assert!(fold_log(&path).is_err(), "the server still has it open");
    drop(server);
    fold_log(&path).unwrap();
    let alone = path.with_file_name("alone");
    std::fs::copy(&path, &alone).unwrap();
    assert_eq!(read(&alone, &trust_domain()).unwrap().contents.records.len(), 1);
}

#[test]
fn another_database_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.sqlite3");
    assert!(matches!(read(&path, &trust_domain()), Err(SpireError::Unusable { .. })));
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    assert!(matches!(read(&path, &trust_domain()), Err(SpireError::Foreign { .. })));
    let (_folder, path) = database("UPDATE migrations SET version = 22");
    let refused = read(&path, &trust_domain()).unwrap_err().to_string();
    assert!(refused.contains("its schema is 22") && refused.contains("start SPIRE 1.15"), "{refused}");
}
