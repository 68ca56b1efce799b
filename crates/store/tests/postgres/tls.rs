//! TLS to the database.

use vouchsafe_store::Store;
use vouchsafe_store::postgres::Settings;
use vouchsafe_testkit::postgres::{Cluster, USER};

use crate::{open_with, outcome, refused, settled, told};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: run by interop/run postgres"]
async fn tls_is_as_strict_as_sslmode_says() {
    let issue = |names: Vec<String>,
                 ca: Option<&(rcgen::Certificate, rcgen::Issuer<'static, rcgen::KeyPair>)>| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(names.clone()).unwrap();
        let name = if ca.is_some() { USER } else { names[0].as_str() };
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        if ca.is_none() {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }
        let certificate = match ca {
            Some((_, issuer)) => params.signed_by(&key, issuer).unwrap(),
            None => params.self_signed(&key).unwrap(),
        };
        (certificate, key, params)
    };
    let (certificate, key, params) = issue(vec!["ca".into()], None);
    let ca = (certificate, rcgen::Issuer::new(params, key));
    let (server, server_key, _) = issue(vec!["db.example".into()], Some(&ca));
    let (client, client_key, _) = issue(vec!["client".into()], Some(&ca));
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = files.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let roots = file("ca.pem", ca.0.pem());
    let (client, client_key) = (file("c.pem", client.pem()), file("c.key", client_key.serialize_pem()));
    let (other, _, _) = issue(vec!["other".into()], None);
    let others = file("other.pem", other.pem());

    let mut cluster = Cluster::start();
    cluster.use_tls(&server.pem(), &server_key.serialize_pem(), Some(&ca.0.pem()));
    cluster.restart();
    let with = |mode: &str, roots: Option<&std::path::Path>| Settings {
        root_ca_path: roots.map(Into::into),
        ..Settings::new(cluster.connection_string("postgres").replace("disable", mode))
    };
    for good in [
        with("require", None),
        with("prefer", None),
        with("require", Some(&roots)),
        with("verify-ca", Some(&roots)),
    ] {
        let store = open_with(&good);
        let pinged = outcome(|| store.ping()).await;
        pinged.unwrap_or_else(|error| panic!("{good:?}: {}", told(&error)));
    }
    for (bad, part) in [
        (with("verify-ca", Some(&others)), "root_ca_path"),
        (with("require", Some(&others)), "root_ca_path"),
        (with("verify-full", None), "root_ca_path"),
        (with("verify-full", Some(&roots)), "name"),
    ] {
        refused(&bad, &[part]).await;
    }
    // Only clients with a certificate, and no others.
    cluster.use_hba("hostssl all all 127.0.0.1/32 cert\nhost all all 127.0.0.1/32 scram-sha-256\n");
    cluster.sql("postgres", "SELECT pg_reload_conf()");
    let settings = Settings {
        client_cert_path: Some(client),
        client_key_path: Some(client_key),
        ..with("verify-ca", Some(&roots))
    };
    let store = open_with(&settings);
    settled(|| store.ping()).await;
    refused(&with("verify-ca", Some(&roots)), &["certificate"]).await;
}
