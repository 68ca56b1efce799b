//! The node agent: proves what this node is, finds out what the processes on it are, and gives each its identity.
//!
//! Invariants:
//!
//! * a workload's request never waits for the server while a valid answer is held, also right after a restart;
//! * what is served changes only when the server said so: an outage, a stale replica or a clock that jumped withdraws
//!   nothing;
//! * a key leaves the process only to the workload it belongs to, and the disk only sealed;
//! * the agent ends by itself only when the server refuses it for good.
//!
//! The flow: [`node`] attests and renews the agent's own SVID → [`sync_loop`] fetches entries and bundles → [`issue`]
//! gets X.509-SVIDs ahead of need, all into one [`identities`] snapshot → [`callers`] says who connects and what it
//! matches → [`workload_api`] answers from what is held and pushes changes → [`state`] saves it for the next start.
//!
//! | module | what it holds |
//! |---|---|
//! | [`agent`] | wiring: builds the parts and starts the tasks |
//! | [`config`] | settings and dependencies |
//! | [`node`], [`denials`], [`trust`], [`data_dir`] | the agent's own identity, what ends it, how it knows the server, SPIRE's files |
//! | `upstream_agent` | another agent's Workload API, as a source of bundle or identity |
//! | [`server_client`], [`servers`] | calls to the servers; which of them is used |
//! | [`sync`], [`push`], [`sync_loop`] | which entries there are: asked for, told of (pure); the loop |
//! | [`entries`] | the entries and which ones a workload matches (pure) |
//! | [`bundles`], [`taint`] | trust bundles as they are served; what tainted authorities signed |
//! | [`rotation`] | when a credential is renewed (pure) |
//! | [`issue`] | X.509-SVIDs: what to ask for (pure), and asking |
//! | [`jwt_cache`], [`jwt_issue`] | JWT-SVIDs by identity and audience |
//! | [`identities`], [`identity_set`] | the snapshot; what one kind of caller gets, encoded once |
//! | [`attest`], [`callers`] | who a process is; one connection's process |
//! | [`apis`], [`workload_api`] | what is served on the socket; the SPIFFE Workload API |
//! | [`sds`] | secret discovery, for Envoy |
//! | [`explain`] | why a process has or lacks an identity |
//! | [`admin`] | the admin socket: debug, log level, identities of other processes for delegates |
//! | [`limits`], [`refusals`] | how often a caller may ask; how often its refusals are logged |
//! | [`state`] | what survives a restart |
//! | [`status`], [`metrics`], [`holdings`] | what the agent says about itself; what it holds, in figures for a scraper |
//! | [`renewals`], [`forecast`] | how renewing goes; what expires if it goes on like that (pure) |

pub mod admin;
pub mod agent;
pub mod apis;
pub mod attest;
pub mod bundles;
pub mod callers;
pub mod config;
pub mod data_dir;
pub mod denials;
pub mod entries;
pub mod explain;
pub mod forecast;
pub mod holdings;
pub mod identities;
pub mod identity_set;
pub mod issue;
pub mod jwt_cache;
pub mod jwt_issue;
pub mod limits;
pub mod metrics;
pub mod node;
pub mod push;
pub mod refusals;
pub mod renewals;
pub mod rotation;
pub mod sds;
pub mod server_client;
pub mod servers;
pub mod state;
pub mod status;
pub mod sync;
pub mod sync_loop;
pub mod taint;
pub mod trust;
mod upstream_agent;
pub mod workload_api;

pub use admin::AdminConfig;
pub use agent::{Agent, Running, StartError};
pub use attest::docker::{DockerConfig, DockerSettings};
pub use attest::unix::UnixAttestorConfig;
pub use config::{Bootstrap, Config, Deps, Rebootstrap, RebootstrapMode};
pub use limits::LimitsConfig;
pub use status::{AgentStatus, Phase};
