use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

#[tokio::test]
async fn both_managers_keep_replace_and_list_keys() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Disk::open(directory.path().join("keys.json")).unwrap();
    let memory = Memory::new();
    for manager in [&disk as &dyn KeyManager, &memory] {
        let first = manager.generate("x509-CA-A", KeyType::EcP256).await.unwrap();
        let second = manager.generate("x509-CA-A", KeyType::EcP384).await.unwrap();
        assert_ne!(first.public_key_der(), second.public_key_der());
        manager.generate("JWT-Signer-A", KeyType::EcP256).await.unwrap();
        let got = manager.get("x509-CA-A").await.unwrap().unwrap();
        assert_eq!(got.public_key_der(), second.public_key_der());
        assert!(manager.get("x509-CA-B").await.unwrap().is_none());
        let names: Vec<_> = manager.list().await.unwrap().into_iter().map(|(id, _)| id).collect();
        assert_eq!(names, ["JWT-Signer-A", "x509-CA-A"]);
        assert!(matches!(manager.generate("", KeyType::EcP256).await, Err(KeyManagerError::Id(_))));
    }
}

#[tokio::test]
async fn keys_on_disk_survive_a_restart_in_a_private_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.json");
    let disk = Disk::open(&path).unwrap();
    let key = disk.generate("x509-CA-A", KeyType::EcP256).await.unwrap();
    let seal = disk.seal_key("lastgood").unwrap();
    drop(disk);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "temporary files are gone");
    let again = Disk::open(&path).unwrap();
    assert_eq!(again.get("x509-CA-A").await.unwrap().unwrap().public_key_der(), key.public_key_der());
    assert_eq!(*again.seal_key("lastgood").unwrap(), *seal);
    assert_ne!(*again.seal_key("other").unwrap(), *seal);
}

#[test]
fn a_keys_file_of_the_reference_is_read() {
    // In the form of Go's x509.MarshalPKCS8PrivateKey, which leaves the curve out of the inner structure.
    const KEY: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgevZzL1gdAFr88hb2OF/2NxApJCzGCEDdfSp6VQO30hyhRANCAAQRWz+jn65BtOMvdyHKcvjBeBSDZH2r1RTwjmYSi9R/zpBnuQ4EiMnCqfMPWiZqB4QdbAd0E7oH50VpuZ1P087G";
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.json");
    fs::write(&path, format!("{{\n\t\"keys\": {{\n\t\t\"x509-CA-A\": \"{KEY}\"\n\t}}\n}}")).unwrap();
    let disk = Disk::open(&path).unwrap();
    assert_eq!(disk.private_key("x509-CA-A").unwrap().key_type(), KeyType::EcP256);
}

#[test]
fn a_file_that_is_no_keys_file_is_refused_by_name_and_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.json");
    let check = |contents: &str, expected: &str| {
        fs::write(&path, contents).unwrap();
        let error = Disk::open(&path).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("keys.json") && text.contains(expected), "{text}");
        assert_eq!(error.class(), Class::Permanent);
        assert_eq!(fs::read_to_string(&path).unwrap(), contents, "the file is untouched");
    };
    check("", "damaged");
    check("{\"keys\": {\"a\": \"QUJD", "damaged");
    check("{\"keys\": {\"a\": \"!\"}}", "\"a\" is not base64");
    check("{\"keys\": {\"a\": \"QUJD\"}}", "not an unencrypted PKCS #8 key");
}

#[test]
fn an_unwritable_directory_is_named() {
    let error = Disk::open("/proc/vouchsafe/keys.json").unwrap_err();
    assert!(matches!(&error, KeyManagerError::Write { .. } | KeyManagerError::Read { .. }), "{error}");
    assert!(error.to_string().contains("/proc/vouchsafe/keys.json"));
}

#[tokio::test]
async fn a_failed_write_keeps_the_old_key() {
    let directory = tempfile::tempdir().unwrap();
    let inside = directory.path().join("inside");
    fs::create_dir(&inside).unwrap();
    let disk = Disk::open(inside.join("keys.json")).unwrap();
    let old = disk.generate("x509-CA-A", KeyType::EcP256).await.unwrap();
    fs::remove_dir_all(&inside).unwrap();
    let error = disk.generate("x509-CA-A", KeyType::EcP256).await.unwrap_err();
    assert_eq!(error.class(), Class::Transient);
    assert_eq!(disk.get("x509-CA-A").await.unwrap().unwrap().public_key_der(), old.public_key_der());
}
