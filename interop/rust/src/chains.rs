//! Leaves every chain with the bundle it came with as PEM, named by the second it arrived, for `openssl verify`.

use crate::Failure;
use crate::report::must_env;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

pub struct Chains {
    dir: PathBuf,
    written: u32,
}

impl Chains {
    pub fn create() -> Result<Self, Failure> {
        let dir = PathBuf::from(must_env("INTEROP_OUT")?).join("chains");
        std::fs::create_dir_all(&dir)?;
        Ok(Self { dir, written: 0 })
    }

    pub fn write(&mut self, received: SystemTime, chain: &[&[u8]], bundle: &[&[u8]]) -> Result<(), Failure> {
        self.written += 1;
        let stem = format!("{}-{:03}", received.duration_since(UNIX_EPOCH)?.as_secs(), self.written);
        let leaf = chain.len().min(1);
        for (part, certificates) in
            [("leaf", &chain[..leaf]), ("intermediates", &chain[leaf..]), ("bundle", bundle)]
        {
            std::fs::write(self.dir.join(format!("{stem}.{part}.pem")), pem(certificates)?)?;
        }
        Ok(())
    }
}

fn pem(certificates: &[&[u8]]) -> Result<String, Failure> {
    let mut text = String::new();
    for der in certificates {
        writeln!(text, "-----BEGIN CERTIFICATE-----")?;
        for line in STANDARD.encode(der).as_bytes().chunks(64) {
            writeln!(text, "{}", std::str::from_utf8(line)?)?;
        }
        writeln!(text, "-----END CERTIFICATE-----")?;
    }
    Ok(text)
}
