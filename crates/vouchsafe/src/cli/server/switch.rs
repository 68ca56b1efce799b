//! `import` and `export`: from SPIRE, and back.

use clap::Args;

use crate::config::Source;
use crate::config::server::{self, Config, DEFAULT_CONFIG_PATH, Overrides};
use crate::console::Console;
use crate::run::switch::{self, Import, Moved};

#[derive(Args, Debug)]
pub(in crate::cli) struct SwitchArgs {
    /// Path to the SPIRE config file of the server [default: conf/server/server.conf]
    #[arg(long = "config", value_name = "path")]
    config: Option<String>,
    /// Expand environment variables in SPIRE config file
    #[arg(long = "expandEnv")]
    expand_env: bool,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct ImportArgs {
    #[command(flatten)]
    common: SwitchArgs,
    /// Say what would be done, and do nothing
    #[arg(long = "dryRun")]
    dry_run: bool,
    /// Leave out what is not understood, instead of refusing everything
    #[arg(long = "leaveOut")]
    leave_out: bool,
}

impl SwitchArgs {
    pub(super) fn load(self, console: &Console<'_>) -> anyhow::Result<Config> {
        let path = self.config.filter(|path| !path.is_empty());
        let path = path.unwrap_or_else(|| DEFAULT_CONFIG_PATH.to_owned());
        let source = Source::load(&path, self.expand_env.then_some(&*console.environment))?;
        Ok(server::load(&source, &Overrides::default())?)
    }
}

pub(super) async fn import(arguments: ImportArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    let options = Import { dry_run: arguments.dry_run, leave_out: arguments.leave_out };
    let config = arguments.common.load(console)?;
    let moved = switch::import(&config, options).await?;
    for line in &moved.left_out {
        writeln!(console.stderr, "Left out: {line}")?;
    }
    if !moved.keys_known {
        writeln!(
            console.stderr,
            "Warning: none of the keys of the key manager signed before; the server will make new ones, which agents \
             and workloads learn with the bundle"
        )?;
    }
    tell(if options.dry_run { "Would import" } else { "Imported" }, &moved, console)?;
    if let Some(kept) = moved.kept {
        writeln!(console.stdout, "SPIRE's database is kept as {}", kept.display())?;
    }
    Ok(())
}

pub(super) async fn export(arguments: SwitchArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    let config = arguments.load(console)?;
    let moved = switch::export(&config).await?;
    tell("Exported", &moved, console)?;
    if let Some(kept) = moved.kept {
        writeln!(
            console.stdout,
            "This server's database is kept as {}; spire-server can start now",
            kept.display()
        )?;
    }
    Ok(())
}

fn tell(verb: &str, moved: &Moved, console: &mut Console<'_>) -> std::io::Result<()> {
    writeln!(
        console.stdout,
        "{verb} {} registration entries, {} agents, {} bundles, {} join tokens, {} federation relationships",
        moved.entries, moved.agents, moved.bundles, moved.join_tokens, moved.federation
    )
}
