//! The command line.

use crate::replays::Replay;

/// What the caller wants.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Asked {
    Help,
    Run(Args),
}

/// A run.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Args {
    /// In this order.
    pub(crate) replays: Vec<Replay>,
    pub(crate) quick: bool,
    pub(crate) peer: Peer,
    pub(crate) json: bool,
    /// The directory of a run stays, with configuration and logs.
    pub(crate) keep: bool,
}

/// Whether stock SPIRE goes through the same.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Peer {
    /// Where its programs are and the run has its full length.
    Auto,
    /// It must.
    Spire,
    /// It does not.
    Without,
    /// Only it. There is no verdict, so the run does not pass.
    Only,
}

impl Args {
    pub(crate) fn parse(arguments: &[String]) -> Result<Asked, String> {
        let mut args = Self { replays: Vec::new(), quick: false, peer: Peer::Auto, json: false, keep: false };
        let mut rest = arguments.iter().map(String::as_str);
        while let Some(argument) = rest.next() {
            let (name, value) = match argument.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name, Some(value)),
                _ => (argument, None),
            };
            let mut wanted = |what: &str| value.or_else(|| rest.next()).ok_or(format!("{name} needs {what}"));
            match name {
                "-h" | "--help" | "help" => return Ok(Asked::Help),
                "--quick" => args.quick = true,
                "--keep" => args.keep = true,
                "--peer" => args.peer = Peer::parse(wanted("spire, none or only")?)?,
                "--output" => args.json = json(wanted("text or json")?)?,
                "all" => args.replays = Replay::ALL.to_vec(),
                name if name.starts_with('-') => return Err(format!("there is no option {name}")),
                name => args.add(name)?,
            }
        }
        if args.replays.is_empty() {
            return Err("which replay?".to_owned());
        }
        Ok(Asked::Run(args))
    }

    fn add(&mut self, name: &str) -> Result<(), String> {
        let replay = Replay::named(name).ok_or_else(|| {
            let names: Vec<&str> = Replay::ALL.iter().map(|replay| replay.name()).collect();
            format!("there is no replay {name:?}; there are {} and all", names.join(", "))
        })?;
        if !self.replays.contains(&replay) {
            self.replays.push(replay);
        }
        Ok(())
    }
}

impl Peer {
    fn parse(value: &str) -> Result<Self, String> {
        match value {
            "spire" => Ok(Self::Spire),
            "none" => Ok(Self::Without),
            "only" => Ok(Self::Only),
            other => Err(format!("--peer is spire, none or only, not {other:?}")),
        }
    }
}

fn json(value: &str) -> Result<bool, String> {
    match value {
        "json" => Ok(true),
        "text" => Ok(false),
        other => Err(format!("--output is text or json, not {other:?}")),
    }
}

pub(crate) const USAGE: &str = "usage: vouchsafe-replay <replay>… [--quick] [--peer spire|none|only] \
[--output text|json] [--keep]
       vouchsafe-replay --help";

pub(crate) const HELP: &str = "\
Replays incidents against real processes: our server and agent, PostgreSQL, Prometheus, Kubernetes; and stock SPIRE beside them.

usage: cargo run --release -p vouchsafe-replay -- <replay>… [options]

  slow-store        every database call takes 5 s; 200 workloads ask with a deadline of 500 ms
  store-outage      the database is gone for 5 minutes under 200 agents
  agent-restart     server and database are gone; the agent is killed and started again
  stale-replica     the server reads from a replica that lacks 114 of 665 entries
  connection-loss   one of three servers slows down, then dies; then all die
  bundle-conflict   somebody else writes the Kubernetes objects that hold the bundle, during rotations
  all               these six, in this order

  --quick           shorter and smaller; the six together take less than 7 minutes
  --peer spire      SPIRE too: its column is evidence, and decides nothing. The default at full length when its programs
                    are there ($SPIRE_BIN, or where interop/spire/binaries.sh compiled them)
  --peer none       ours only; the default with --quick
  --peer only       SPIRE only; such a run never passes
  --output json     one object for each replay instead of the table
  --keep            keep the directory of each run, with configuration and logs

Environment: VOUCHSAFE_BIN is the program to test instead of the one that is built beside this one; SPIRE_BIN the directory
of spire-server and spire-agent; POSTGRES_BIN the directory of PostgreSQL's programs; KUBERNETES_BIN that of
kube-apiserver and etcd.

Exit codes: 0 every bound was met; 1 one was missed or something under test broke; 2 wrong usage; 3 cannot be set up
(it says what is missing) or was interrupted.

examples:
  cargo run --release -p vouchsafe-replay -- slow-store
  cargo run --release -p vouchsafe-replay -- all --quick
  cargo run --release -p vouchsafe-replay -- store-outage --quick --peer spire --output json";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Asked, String> {
        Args::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    fn run(line: &str) -> Args {
        match parse(line) {
            Ok(Asked::Run(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn all_is_every_replay_in_order() {
        assert_eq!(run("all --quick").replays, Replay::ALL);
        assert!(run("all --quick").quick);
        assert_eq!(run("slow-store all").replays, Replay::ALL);
    }

    #[test]
    fn a_replay_is_run_once() {
        assert_eq!(run("slow-store stale-replica slow-store").replays.len(), 2);
    }

    #[test]
    fn options_take_their_value_with_or_without_an_equals_sign() {
        assert_eq!(run("all --peer spire").peer, Peer::Spire);
        assert_eq!(run("--peer=none all").peer, Peer::Without);
        assert!(run("--output json all").json);
        assert_eq!(parse("all --help"), Ok(Asked::Help));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, named) in [
            ("", "which replay"),
            ("slow-stor", "there is no replay \"slow-stor\"; there are slow-store, "),
            ("all --fast", "--fast"),
            ("all --peer", "--peer needs"),
            ("all --peer envoy", "envoy"),
            ("all --output=xml", "xml"),
        ] {
            assert!(parse(line).unwrap_err().contains(named), "{line}");
        }
    }
}
