//! How bytes come in and go out: sockets, TLS, HTTP/2 serving and who is at the other end.
//!
//! Invariants:
//!
//! * nothing here knows what an entry is or what an RPC means; of SVIDs only how to read whom one names;
//! * every listener has a bound on connections, on unfinished handshakes and on time to the first byte, and says
//!   what happens at the bound;
//! * only Unix sockets are lenient about `:authority` ([`authority`]); TCP is not;
//! * who the peer is, is read once, at accept, and never from the request.
//!
//! The flow of a connection: a [`listener::Listener`] accepts it ([`unix`] or [`tls`]) → [`grpc::serve`] takes a
//! permit for it, serves HTTP/2 on it and gives each request the connection's `ConnectInfo` as an extension →
//! [`rpc_metrics`] counts each RPC when its stream ends → the drain is bounded.
//!
//! * [`authority`]   makes the `:authority` of gRPC C-core clients well-formed
//! * [`peer`]        the process at the other end of a Unix socket
//! * [`net`]         real sockets, or a simulated network
//! * [`unix`]        binding and accepting on a Unix socket
//! * [`tls`]         accepting TLS over TCP, handshakes off the accept loop
//! * [`proxy`]       where a client behind a load balancer comes from
//! * [`listener`]    what a listener and a connection are
//! * [`grpc`]        serving gRPC until cancelled, with a bounded drain
//! * [`rpc_metrics`] one call counter per RPC
//! * [`pages`]       serving small pages over HTTP/1.1 on any listener
//! * [`http`]        `/live`, `/ready` and `/metrics`
//! * [`connect`]     client channels over a Unix socket and over TLS
//! * [`fetch`]       one GET request with a deadline and a bound

pub mod authority;
pub mod connect;
mod connections;
pub mod fetch;
pub mod grpc;
pub mod http;
pub mod listener;
pub mod net;
pub mod pages;
pub mod peer;
pub mod proxy;
pub mod rpc_metrics;
pub mod tls;
pub mod unix;
