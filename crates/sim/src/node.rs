//! A machine with one process on it, which ends and is started again.
//!
//! A crash drops all tasks of the process at once, cuts it off the network, and starts its successor on a copy of its files
//! as they were at that moment: whatever a task that nobody can stop still does (a request in flight, a write on another
//! thread) has no effect on the successor, as in reality.

use std::fs;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep};
use vouchsafe_runtime::clock::{Clock, ClockHandle};
use vouchsafe_runtime::supervisor::Supervisor;

use crate::invariants::lives_on;
use crate::net::Host;
use crate::schedule::Part;
use crate::world::World;

/// What runs on a machine.
pub trait Program: Send + Sync + Sized + 'static {
    /// Starts it with its files in `dir`. The error says in one line why it does not start.
    fn start(
        world: Arc<World>,
        node: Arc<Node<Self>>,
        dir: PathBuf,
    ) -> impl Future<Output = Result<(Self, Supervisor), String>> + Send;

    /// It ended, by an order or by itself. Whether it may end by itself now.
    fn ended(world: &World, node: &Node<Self>) -> bool;
}

/// A machine.
#[derive(Debug)]
pub struct Node<P> {
    /// Which.
    pub part: Part,
    /// Its place among its kind.
    pub index: usize,
    /// Its place in the network.
    pub host: Host,
    /// Its clock.
    pub clock: Clock,
    /// Turns its clock.
    pub hands: ClockHandle,
    up: Mutex<Option<(Arc<P>, Instant)>>,
    lives: AtomicU64,
    started: watch::Sender<u64>,
    orders: mpsc::UnboundedSender<Order>,
}

/// What is done to a process.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// It ends without a chance to tidy up, and its successor starts so much later.
    Crash(Duration),
    /// It is asked to end, and starts again.
    Restart,
}

impl<P: Program> Node<P> {
    /// A machine whose clock reads `wall`, and the orders that [`Node::live`] takes.
    #[must_use]
    pub fn new(
        (part, index): (Part, usize),
        host: Host,
        wall: SystemTime,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Order>) {
        let (clock, hands) = Clock::steerable(wall);
        let (orders, taken) = mpsc::unbounded_channel();
        let up = Mutex::new(None);
        let (lives, started) = (AtomicU64::new(0), watch::Sender::new(0));
        (Arc::new(Self { part, index, host, clock, hands, up, lives, started, orders }), taken)
    }

    /// The process, if one runs.
    #[must_use]
    pub fn up(&self) -> Option<Arc<P>> {
        self.up.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(up, _)| up.clone())
    }

    /// Since when the process runs, if one does.
    #[must_use]
    pub fn up_since(&self) -> Option<Instant> {
        self.up.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(_, since)| *since)
    }

    /// Tells of each process that has started.
    #[must_use]
    pub fn starts(&self) -> watch::Receiver<u64> {
        self.started.subscribe()
    }

    /// How many processes ran before. With [`Node::up`]: whether it is still the same one.
    #[must_use]
    pub fn life(&self) -> u64 {
        self.lives.load(Ordering::Relaxed)
    }

    /// Tells the machine what to do with its process. One that does not run takes no orders.
    pub fn order(&self, order: Order) {
        // Nobody listens once the simulation ends.
        self.orders.send(order).ok();
    }

    fn set(&self, up: Option<Arc<P>>) {
        *self.up.lock().unwrap_or_else(PoisonError::into_inner) = up.map(|up| (up, Instant::now()));
    }

    /// Runs processes on the machine for ever.
    pub async fn live(self: Arc<Self>, world: Arc<World>, mut orders: mpsc::UnboundedReceiver<Order>) {
        loop {
            let dir = self.dir(&world, self.life());
            let (stop, stopped) = oneshot::channel::<()>();
            let mut process = Box::pin(self.clone().run(world.clone(), dir.clone(), stopped));
            let (mut stop, mut told) = (Some(stop), false);
            let away = loop {
                tokio::select! {
                    biased;
                    order = orders.recv() => match order {
                        None => return,
                        Some(Order::Crash(away)) => break away,
                        Some(Order::Restart) => {
                            told = true;
                            stop = None;
                        }
                    },
                    ended = &mut process => {
                        let how = ended.err().unwrap_or_default();
                        world.trace.line(&self.part.to_string(), &format!("ended: {how}"));
                        let started = self.up().is_some();
                        if started && !told && !P::ended(&world, &self)
                            && let Err(violation) = lives_on(&self.part.to_string(), &how)
                        {
                            world.trace.violated(violation);
                        }
                        break match (told, P::ended(&world, &self)) {
                            (true, _) => RESTART,
                            (false, true) => RESTART_REFUSED,
                            (false, false) => RESTART_FAILED,
                        };
                    }
                }
            };
            drop((process, stop));
            self.set(None);
            self.lives.fetch_add(1, Ordering::Relaxed);
            world.net.kill(self.host);
            P::ended(&world, &self);
            if let Err(error) = copy(&dir, &self.dir(&world, self.life())) {
                world.trace.line(&self.part.to_string(), &format!("files lost: {error}"));
            }
            sleep(away).await;
            while orders.try_recv().is_ok() {}
        }
    }

    async fn run(
        self: Arc<Self>,
        world: Arc<World>,
        dir: PathBuf,
        stopped: oneshot::Receiver<()>,
    ) -> Result<(), String> {
        fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
        let (program, group) = P::start(world.clone(), self.clone(), dir).await?;
        world.trace.line(&self.part.to_string(), "started");
        self.set(Some(Arc::new(program)));
        self.started.send_modify(|count| *count += 1);
        let outcome = group.run(async { drop(stopped.await) }, STOP_GRACE).await;
        outcome.map_err(|error| error.to_string())
    }

    fn dir(&self, world: &World, life: u64) -> PathBuf {
        world.dir.join(format!("{}.{life}", self.part))
    }
}

/// Copies what is there now. A file that goes away meanwhile was about to.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)?.flatten() {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy(&source, &target)?;
        } else if let Err(error) = fs::copy(&source, &target)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
    }
    Ok(())
}

/// From the end of a process to the start of the next one, if an operator restarts it.
const RESTART: Duration = Duration::from_millis(500);
/// The same for one that could not start or ended by itself.
const RESTART_FAILED: Duration = Duration::from_secs(5);
/// The same for one that may not go on.
const RESTART_REFUSED: Duration = Duration::from_secs(120);
/// How long a process may take to end when it is told to.
const STOP_GRACE: Duration = Duration::from_secs(20);
