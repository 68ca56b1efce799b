//! Fails when a crate depends on its own rank or on a higher one, or when a foreign crate leaves its home.

use std::collections::HashMap;
use std::process::{Command, ExitCode};

use anyhow::{Context, ensure};
use serde_json::Value;

/// Foreign crates that only the named crates may depend on (STYLE §1).
const HOMES: &[(&str, &[&str])] = &[
    ("rusqlite", &["vouchsafe-store"]),
    ("clap", &["vouchsafe", "xtask"]),
    ("anyhow", &["vouchsafe", "xtask"]),
    ("tonic-prost", &["vouchsafe-proto"]),
    ("rustls-webpki", &["vouchsafe-identity", "vouchsafe-sigstore"]),
    ("kube", &["vouchsafe-cluster"]),
    ("k8s-openapi", &["vouchsafe-cluster"]),
];

/// Prints every violation; fails when there is one.
pub(crate) fn check() -> anyhow::Result<ExitCode> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .output()
        .context("run cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let violations = violations(&serde_json::from_slice(&output.stdout)?)?;
    for violation in &violations {
        eprintln!("{violation}");
    }
    Ok(if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn violations(metadata: &Value) -> anyhow::Result<Vec<String>> {
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let mut ranks = HashMap::new();
    for package in packages {
        let name = package["name"].as_str().context("a package has no name")?;
        let rank = package["metadata"]["layer"]["rank"]
            .as_u64()
            .with_context(|| format!("{name}: set package.metadata.layer.rank"))?;
        ranks.insert(name, rank);
    }
    let mut found = Vec::new();
    for package in packages {
        let name = package["name"].as_str().context("a package has no name")?;
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let Some(on) = dependency["name"].as_str() else { continue };
            if dependency["kind"].as_str() == Some("dev") {
                continue;
            }
            if let Some(rank) = ranks.get(on)
                && *rank >= ranks[name]
            {
                found.push(format!("{name} (rank {}) must not depend on {on} (rank {rank})", ranks[name]));
            }
            if let Some((_, homes)) = HOMES.iter().find(|(foreign, _)| *foreign == on)
                && !homes.contains(&name)
            {
                found.push(format!("{name} must not depend on {on}: its home is {}", homes.join(", ")));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, rank: u64, on: &[(&str, Option<&str>)]) -> Value {
        let dependencies: Vec<_> =
            on.iter().map(|(name, kind)| serde_json::json!({ "name": name, "kind": kind })).collect();
        serde_json::json!({ "name": name, "metadata": { "layer": { "rank": rank } }, "dependencies": dependencies })
    }

    fn check(packages: &[Value]) -> Vec<String> {
        violations(&serde_json::json!({ "packages": packages })).unwrap()
    }

    #[test]
    fn a_crate_may_use_lower_ranks_and_test_with_any() {
        let found =
            check(&[package("low", 0, &[("high", Some("dev"))]), package("high", 1, &[("low", None)])]);
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn a_crate_must_not_use_its_own_rank() {
        let found = check(&[package("a", 3, &[("b", None)]), package("b", 3, &[])]);
        assert_eq!(found, ["a (rank 3) must not depend on b (rank 3)"]);
    }

    #[test]
    fn a_foreign_crate_stays_in_its_home() {
        let found = check(&[package("vouchsafe-server", 3, &[("rusqlite", None)])]);
        assert_eq!(found, ["vouchsafe-server must not depend on rusqlite: its home is vouchsafe-store"]);
    }
}
