//! What goes wrong when, drawn from the seed. Pure.

use std::fmt;
use std::time::Duration;

use vouchsafe_runtime::blocking::Pauses;
use vouchsafe_runtime::entropy::Entropy;

/// A server or an agent, by its place among its kind.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part {
    /// A server.
    Server(usize),
    /// An agent.
    Agent(usize),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(index) => write!(f, "server-{}", index + 1),
            Self::Agent(index) => write!(f, "agent-{}", index + 1),
        }
    }
}

/// What goes wrong for a while. `None` as a server means all of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Trouble {
    /// The database refuses every call of a server.
    StoreDown(Option<usize>),
    /// It does not answer, until a call's deadline is over.
    StoreHangs(Option<usize>),
    /// It answers so late.
    StoreSlow(Option<usize>, Duration),
    /// It does what it is told, and the answer is lost.
    StoreLosesAnswers(Option<usize>),
    /// Nothing passes between an agent and a server.
    Cut(usize, Option<usize>),
    /// Everything that a host sends or gets is late.
    Slow(Part, Duration),
    /// A part of the packets of a host is lost.
    Lossy(Part, f64),
}

/// What happens at a moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Accident {
    /// A process ends without a chance to tidy up, and is started again after so long.
    Crash(Part, Duration),
    /// The machine loses its power, so that nobody is told.
    PowerCut(Part, Duration),
    /// An operator restarts it.
    Restart(Part),
    /// All connections between an agent and the servers break.
    Reset(usize),
    /// All clocks jump by so many seconds.
    Jump(i64),
    /// One clock goes so many seconds wrong, from now on.
    Skew(Part, i64),
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// It lasts.
    For(Duration, Trouble),
    /// It is over at once.
    Once(Accident),
}

/// How much there is.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Servers.
    pub servers: usize,
    /// Agents.
    pub agents: usize,
    /// How long faults begin.
    pub storm: Duration,
}

/// How a seed's world differs from others.
#[derive(Clone, Copy, Debug)]
pub struct Character {
    /// From one host to another while all is well.
    pub delay: Duration,
    /// Lifetime of authorities.
    pub ca_ttl: Duration,
    /// Lifetime of SVIDs.
    pub svid_ttl: Duration,
    /// How wrong one clock may be. Long-lived SVIDs are backdated by 40 s, short ones by 10 s.
    pub skew: i64,
}

impl Character {
    /// The one of `seed`.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut dice = Dice(Entropy::from_seed(seed).fork("world"));
        let delay = dice.seconds(0.001, 0.03);
        let ca_ttl = Duration::from_secs(if dice.chance(0.5) { 24 * 3600 } else { 1800 });
        let long = dice.chance(0.3);
        let (svid_ttl, skew) =
            if long { (Duration::from_secs(2400), 29) } else { (Duration::from_secs(100), 8) };
        Self { delay, ca_ttl, svid_ttl, skew }
    }
}

/// The faults of `seed`, each with the time after which it begins.
#[must_use]
pub fn plan(seed: u64, shape: Shape) -> Vec<(Duration, Fault)> {
    let (mut dice, skew) = (Dice(Entropy::from_seed(seed).fork("schedule")), Character::of(seed).skew);
    let count = 2 + dice.below(6);
    let mut plan: Vec<_> =
        (0..count).map(|_| (shape.storm.mul_f64(dice.0.fraction()), dice.fault(shape, skew))).collect();
    // One trouble is there when everything is repaired.
    plan.push((shape.storm.saturating_sub(dice.seconds(1.0, 120.0)), dice.long_trouble(shape)));
    plan.sort_by_key(|(at, _)| *at);
    // Each kind of clock trouble comes once: two of them in one run are beyond what is promised.
    let mut clocks = 0;
    plan.retain(|(_, fault)| {
        let is_clock = matches!(fault, Fault::Once(Accident::Jump(_) | Accident::Skew(..)));
        clocks += usize::from(is_clock);
        !is_clock || clocks == 1
    });
    plan
}

/// Draws from a seed.
#[derive(Debug)]
pub struct Dice(pub Entropy);

impl Dice {
    /// A number below `count`.
    pub fn below(&mut self, count: usize) -> usize {
        ((self.0.fraction() * count as f64) as usize).min(count.saturating_sub(1))
    }

    /// Whether something with this probability happens.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.0.fraction() < probability
    }

    /// A duration of `from` to `to` seconds; short ones are likelier.
    pub fn seconds(&mut self, from: f64, to: f64) -> Duration {
        let place = self.0.fraction();
        Duration::from_millis((1000.0 * (from + (to - from) * place * place)) as u64)
    }

    /// How long a piece of blocking work takes: most take no time at all, so that they come one after the other at one moment.
    pub fn pauses(&mut self) -> Pauses {
        let mut pause = || if self.chance(0.2) { self.seconds(0.0, DISK) } else { Duration::ZERO };
        Pauses { before: pause(), after: pause() }
    }

    fn some_server(&mut self, shape: Shape) -> Option<usize> {
        let server = self.below(shape.servers);
        self.chance(0.5).then_some(server)
    }

    fn part(&mut self, shape: Shape) -> Part {
        let index = self.below(shape.servers + shape.agents);
        if index < shape.servers { Part::Server(index) } else { Part::Agent(index - shape.servers) }
    }

    fn fault(&mut self, shape: Shape, skew: i64) -> Fault {
        let lasts = self.seconds(1.0, 160.0);
        match self.below(14) {
            kind @ 0..8 => Fault::For(lasts, self.trouble(kind, shape)),
            _ => Fault::Once(self.accident(shape, skew)),
        }
    }

    fn long_trouble(&mut self, shape: Shape) -> Fault {
        let kind = self.below(8);
        Fault::For(shape.storm, self.trouble(kind, shape))
    }

    fn trouble(&mut self, kind: usize, shape: Shape) -> Trouble {
        match kind {
            0 => Trouble::StoreDown(self.some_server(shape)),
            1 => Trouble::StoreHangs(self.some_server(shape)),
            2 => Trouble::StoreSlow(self.some_server(shape), self.seconds(0.05, 5.0)),
            3 => Trouble::StoreLosesAnswers(self.some_server(shape)),
            4 | 5 => Trouble::Cut(self.below(shape.agents), self.some_server(shape)),
            6 => Trouble::Slow(self.part(shape), self.seconds(0.05, 4.0)),
            _ => Trouble::Lossy(self.part(shape), 0.01 + 0.3 * self.0.fraction()),
        }
    }

    fn accident(&mut self, shape: Shape, skew: i64) -> Accident {
        match self.below(12) {
            0..=3 => Accident::Crash(self.part(shape), self.seconds(0.1, 90.0)),
            4 | 5 => Accident::PowerCut(self.part(shape), self.seconds(1.0, 90.0)),
            6 | 7 => Accident::Restart(self.part(shape)),
            8 => Accident::Reset(self.below(shape.agents)),
            9 | 10 => {
                let far = [10, 60, 3_600, 86_400, 3 * 86_400][self.below(5)];
                Accident::Jump(if self.chance(0.5) { far } else { -far })
            }
            _ => {
                let part = self.part(shape);
                let seconds = 1 + (self.0.fraction() * skew as f64) as i64;
                Accident::Skew(part, if self.chance(0.5) { seconds } else { -seconds })
            }
        }
    }
}

/// A file, a key or a query takes so many seconds at most, twice.
const DISK: f64 = 0.02;

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { servers: 2, agents: 3, storm: Duration::from_secs(240) };

    #[test]
    fn a_seed_always_gives_the_same_plan_and_another_seed_another_one() {
        assert_eq!(plan(7, SHAPE), plan(7, SHAPE));
        assert_ne!(plan(7, SHAPE), plan(8, SHAPE));
    }

    #[test]
    fn every_kind_of_fault_comes_up_in_a_few_hundred_seeds() {
        let all: String =
            (0..300).flat_map(|seed| plan(seed, SHAPE)).map(|fault| format!("{fault:?}")).collect();
        for kind in [
            "StoreDown",
            "StoreHangs",
            "StoreSlow",
            "StoreLosesAnswers",
            "Cut",
            "Slow(Agent",
            "Slow(Server",
            "Lossy",
            "Crash(Agent",
            "Crash(Server",
            "PowerCut",
            "Restart",
            "Reset",
            "Jump(-",
            "Jump(3600",
            "Skew",
        ] {
            assert!(all.contains(kind), "{kind} never happens");
        }
    }
}
