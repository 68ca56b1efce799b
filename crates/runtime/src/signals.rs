//! Signals of the operating system, as futures.

use std::future::Future;
use std::io;
use std::pin::Pin;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Resolves when a signal has arrived.
pub type Signalled = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Requests to end the process: SIGINT and SIGTERM.
#[non_exhaustive]
pub struct Shutdown {
    /// The first request: stop accepting and drain.
    pub first: Signalled,
    /// The second request: skip the drain. Poll it from the moment the first has resolved.
    pub second: Signalled,
}

impl std::fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shutdown").finish_non_exhaustive()
    }
}

/// Catches SIGINT and SIGTERM from now on, also before the futures are polled.
///
/// # Errors
///
/// Fails when the handlers cannot be installed.
pub fn shutdown() -> io::Result<Shutdown> {
    let mut first = Terminate::listen()?;
    let mut second = Terminate::listen()?;
    Ok(Shutdown {
        first: Box::pin(async move { first.recv().await }),
        second: Box::pin(async move {
            second.recv().await;
            second.recv().await;
        }),
    })
}

/// Catches SIGUSR1 from now on.
///
/// # Errors
///
/// Fails when the handler cannot be installed.
pub fn user1() -> io::Result<UserSignals> {
    signal(SignalKind::user_defined1()).map(UserSignals)
}

/// Catches SIGUSR2 from now on.
///
/// # Errors
///
/// Fails when the handler cannot be installed.
pub fn user2() -> io::Result<UserSignals> {
    signal(SignalKind::user_defined2()).map(UserSignals)
}

/// Arrivals of one user signal. Arrivals that nobody has waited for yet count as one.
#[derive(Debug)]
pub struct UserSignals(Signal);

impl UserSignals {
    /// Waits for the next arrival. Cancel-safe.
    pub async fn recv(&mut self) {
        recv(&mut self.0).await;
    }
}

struct Terminate {
    interrupt: Signal,
    terminate: Signal,
}

impl Terminate {
    fn listen() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn recv(&mut self) {
        tokio::select! {
            () = recv(&mut self.interrupt) => {}
            () = recv(&mut self.terminate) => {}
        }
    }
}

/// A stream that ends gives no further signal, which is not the same as giving one.
async fn recv(signal: &mut Signal) {
    if signal.recv().await.is_none() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::{Signal as Sent, raise};

    /// One test for both, because signals go to the whole process.
    #[tokio::test]
    async fn a_second_request_is_told_from_the_first_and_user_signals_from_both() {
        let Shutdown { first, mut second } = shutdown().unwrap();
        let (mut user1, mut user2) = (user1().unwrap(), user2().unwrap());

        raise(Sent::SIGUSR1).unwrap();
        user1.recv().await;
        raise(Sent::SIGTERM).unwrap();
        first.await;
        tokio::select! {
            biased;
            () = &mut second => panic!("one signal counted twice"),
            () = user2.recv() => panic!("nobody sent SIGUSR2"),
            () = std::future::ready(()) => {}
        }
        raise(Sent::SIGINT).unwrap();
        second.await;
        raise(Sent::SIGUSR2).unwrap();
        user2.recv().await;
    }
}
