//! Which troubles there are at the moment, and what that means for each link and each store.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use vouchsafe_testkit::{Fault as StoreFault, Faults};

use crate::node::Order;
use crate::schedule::{Accident, Fault, Part, Trouble};
use crate::world::World;

/// The troubles of the moment.
#[derive(Debug, Default)]
pub struct Weather {
    active: Vec<(usize, Trouble)>,
    off: Vec<Part>,
    next: usize,
    /// Since when the store is away for each server, or since when it is there.
    stores: Vec<(bool, Instant)>,
    /// Since when no store has any trouble.
    healthy_since: Option<Instant>,
}

impl Weather {
    /// Fine, for so many servers.
    #[must_use]
    pub fn new(servers: usize) -> Self {
        let now = Instant::now();
        Self { stores: vec![(false, now); servers], healthy_since: Some(now), ..Self::default() }
    }

    /// Since when a server's store is away (`true`) or there.
    #[must_use]
    pub fn store(&self, server: usize) -> (bool, Instant) {
        self.stores[server]
    }

    /// What a server's store suffers from: what came last.
    fn store_trouble(&self, server: usize) -> Option<Trouble> {
        let concerns = |of: Option<usize>| of.is_none_or(|of| of == server);
        let found = self.active.iter().rev().find(|(_, trouble)| match *trouble {
            Trouble::StoreDown(of) | Trouble::StoreHangs(of) => concerns(of),
            Trouble::StoreSlow(of, _) | Trouble::StoreLosesAnswers(of) => concerns(of),
            Trouble::Cut(..) | Trouble::Slow(..) | Trouble::Lossy(..) => false,
        });
        found.map(|(_, trouble)| *trouble)
    }

    fn is_cut(&self, agent: usize, server: usize) -> bool {
        let is_off = |part| self.off.contains(&part);
        let cut = |trouble: &Trouble| matches!(*trouble, Trouble::Cut(a, s) if a == agent && s.is_none_or(|s| s == server));
        is_off(Part::Agent(agent)) || is_off(Part::Server(server)) || self.active.iter().any(|(_, t)| cut(t))
    }

    fn delay(&self, ends: [Part; 2]) -> Duration {
        let slow = |trouble: &Trouble| match *trouble {
            Trouble::Slow(part, delay) if ends.contains(&part) => delay,
            _ => Duration::ZERO,
        };
        self.active.iter().map(|(_, trouble)| slow(trouble)).sum()
    }

    fn loss(&self, ends: [Part; 2]) -> f64 {
        let lossy = |trouble: &Trouble| match *trouble {
            Trouble::Lossy(part, loss) if ends.contains(&part) => loss,
            _ => 0.0,
        };
        self.active.iter().map(|(_, trouble)| lossy(trouble)).fold(0.0, f64::max)
    }
}

impl World {
    /// A trouble begins. The number ends it.
    pub fn begin(&self, trouble: Trouble) -> usize {
        let mut weather = self.weather();
        weather.next += 1;
        let number = weather.next;
        weather.active.push((number, trouble));
        drop(weather);
        self.apply_weather();
        number
    }

    /// The trouble is over.
    pub fn end(&self, number: usize) {
        self.weather().active.retain(|(held, _)| *held != number);
        self.apply_weather();
    }

    /// All troubles are over.
    pub fn clear_up(&self) {
        let mut weather = self.weather();
        weather.active.clear();
        weather.off.clear();
        drop(weather);
        self.apply_weather();
    }

    /// A machine loses its power, or has it again.
    pub fn power(&self, part: Part, on: bool) {
        let mut weather = self.weather();
        weather.off.retain(|off| *off != part);
        if !on {
            weather.off.push(part);
        }
        drop(weather);
        self.apply_weather();
    }

    /// Since when no store has had any trouble, if none has now.
    #[must_use]
    pub fn stores_healthy_since(&self) -> Option<Instant> {
        self.weather().healthy_since
    }

    /// What a new server's way to the store is like.
    pub fn apply_store_trouble(&self, server: usize, faults: &Faults) {
        set(faults, self.weather().store_trouble(server));
    }

    fn apply_weather(&self) {
        let mut weather = self.weather();
        let troubles: Vec<_> = (0..self.servers.len()).map(|server| weather.store_trouble(server)).collect();
        for (server, trouble) in troubles.iter().enumerate() {
            // A store whose answers are all lost is away, as far as a server can tell.
            let away = matches!(
                trouble,
                Some(Trouble::StoreDown(_) | Trouble::StoreHangs(_) | Trouble::StoreLosesAnswers(_))
            );
            if weather.stores[server].0 != away || (trouble.is_some() && !away) {
                weather.stores[server] = (away, Instant::now());
            }
        }
        let healthy = troubles.iter().all(Option::is_none);
        weather.healthy_since = healthy.then(|| weather.healthy_since.unwrap_or_else(Instant::now));
        for (node, trouble) in self.servers.iter().zip(troubles) {
            if let Some(up) = node.up() {
                set(&up.faults, trouble);
            }
        }
        for agent in &self.agents {
            for server in &self.servers {
                let ends = [agent.part, server.part];
                let (cut, delay) = (weather.is_cut(agent.index, server.index), weather.delay(ends));
                let loss = weather.loss(ends);
                self.net.change(agent.host, server.host, |link| {
                    (link.cut, link.delay, link.loss) = (cut, self.character.delay + delay, loss);
                });
            }
        }
    }
}

/// Lets `fault` happen now; `tasks` ends what lasts.
pub fn strike(world: &Arc<World>, fault: Fault, tasks: &mut JoinSet<()>) {
    world.trace.line("plan", &format!("{fault:?}"));
    match fault {
        Fault::For(lasts, trouble) => {
            let (number, world) = (world.begin(trouble), world.clone());
            tasks.spawn(async move {
                sleep(lasts).await;
                world.end(number);
                world.trace.line("plan", &format!("over: {trouble:?}"));
            });
        }
        Fault::Once(accident) => happen(world, accident, tasks),
    }
}

fn happen(world: &Arc<World>, accident: Accident, tasks: &mut JoinSet<()>) {
    match accident {
        Accident::Crash(part, away) => order(world, part, Order::Crash(away)),
        Accident::PowerCut(part, away) => {
            world.power(part, false);
            order(world, part, Order::Crash(away));
            let world = world.clone();
            tasks.spawn(async move {
                sleep(away).await;
                world.power(part, true);
            });
        }
        Accident::Restart(part) => order(world, part, Order::Restart),
        Accident::Reset(agent) => {
            for server in &world.servers {
                world.net.reset(world.agents[agent].host, server.host);
            }
        }
        Accident::Jump(seconds) => {
            world.servers.iter().for_each(|node| node.hands.jump(seconds));
            world.agents.iter().for_each(|node| node.hands.jump(seconds));
            let mut facts = world.facts();
            facts.jumped = Some(Instant::now());
            // A token from the future is none.
            facts.agents.iter_mut().for_each(|agent| agent.tokens.clear());
        }
        Accident::Skew(Part::Server(server), seconds) => world.servers[server].hands.jump(seconds),
        Accident::Skew(Part::Agent(agent), seconds) => {
            world.agents[agent].hands.jump(seconds);
            let mut facts = world.facts();
            let agent = &mut facts.agents[agent];
            agent.clock_changed = Some(Instant::now());
            agent.tokens.clear();
        }
    }
}

fn order(world: &World, part: Part, order: Order) {
    match part {
        Part::Server(server) => world.servers[server].order(order),
        Part::Agent(agent) => world.agents[agent].order(order),
    }
}

fn set(faults: &Faults, trouble: Option<Trouble>) {
    let fault = match trouble {
        Some(Trouble::StoreDown(_)) => StoreFault::unavailable(),
        Some(Trouble::StoreHangs(_)) => StoreFault::FailAfter(STORE_DEADLINE),
        Some(Trouble::StoreSlow(_, delay)) => StoreFault::Delay(delay),
        Some(Trouble::StoreLosesAnswers(_)) => StoreFault::LoseAnswer,
        _ => return faults.clear(),
    };
    faults.set_all(&fault);
}

/// After this long a store gives up a call that its database does not answer.
const STORE_DEADLINE: Duration = Duration::from_secs(8);
