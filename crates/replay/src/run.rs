//! What was asked for: first the replays that need the whole machine, one after the other; then the others, which mostly wait,
//! all at once.

use futures_util::future::join_all;

use crate::args::{Args, Peer};
use crate::error::Error;
use crate::place::Place;
use crate::programs::{self, Side, Who};
use crate::progress::Progress;
use crate::replays::{Replay, Scene};
use crate::report::Report;

/// Whether every replay passed. Fails when one cannot be set up.
pub(crate) async fn run(args: &Args) -> Result<bool, Error> {
    programs::installed("setpriv", "util-linux")?;
    let ours = if args.peer == Peer::Only { None } else { Some(Side::ours().await?) };
    let spire = match (args.peer, Side::spire()) {
        (Peer::Without, _) => None,
        (Peer::Auto, spire) => spire.filter(|_| !args.quick),
        (Peer::Spire | Peer::Only, None) => return Err(programs::no_spire()),
        (Peer::Spire | Peer::Only, spire) => spire,
    };
    let (alone, together): (Vec<Replay>, Vec<Replay>) =
        args.replays.iter().partition(|replay| replay.needs_the_machine());
    let show = async |replay| {
        let report = play(args, replay, ours.as_ref(), spire.as_ref()).await?;
        println!("{}", if args.json { report.json().to_string() } else { report.text() });
        Ok(report.passes())
    };
    let mut passed = true;
    for replay in alone {
        passed &= show(replay).await?;
    }
    for shown in join_all(together.into_iter().map(show)).await {
        passed &= shown?;
    }
    Ok(passed)
}

async fn play(
    args: &Args,
    replay: Replay,
    ours: Option<&Side>,
    spire: Option<&Side>,
) -> Result<Report, Error> {
    let mut report =
        Report { replay: replay.name(), quick: args.quick, ours: None, spire: None, broken: None };
    for side in [ours, spire].into_iter().flatten() {
        let progress = Progress::new(replay.name(), side.who.name());
        let scene = Scene { side, quick: args.quick, place: Place::new(args.keep)?, progress };
        if args.keep {
            scene.progress.step(format!("kept: {}", scene.place.path().display()));
        }
        let measured = replay.run(&scene).await;
        match (side.who, measured) {
            (Who::Ours, Ok(measured)) => report.ours = Some(measured),
            (Who::Spire, Ok(measured)) => report.spire = Some(measured),
            (Who::Ours, Err(Error::Broken { what })) => report.broken = Some(what),
            // Evidence that ends early is evidence too; the figures are missing.
            (Who::Spire, Err(Error::Broken { what })) => scene.progress.step(what),
            (_, Err(error)) => return Err(error),
        }
    }
    Ok(report)
}
