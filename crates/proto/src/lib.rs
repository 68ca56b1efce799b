//! The gRPC APIs, and the only conversions between their messages and `vouchsafe-types`.
//!
//! The `.proto` files under `proto/` state the wire facts of the SPIFFE Workload API and of SPIRE's public API;
//! `cargo xtask generate` turns them into `src/gen`, which is committed so that a build needs no generator.
//! Nothing outside this crate names a field number, and nothing here decides anything.
//!
//! * [`workload`]  SPIFFE Workload API (no protobuf package, as the standard has it)
//! * [`spire`]     SPIRE's server and agent APIs, by package
//! * [`convert`]   messages to and from values
//! * [`denial`]    why an agent is denied, in the status detail that agents act on

pub mod convert;
pub mod denial;

/// SPIFFE Workload API: services and messages.
pub mod workload {
    #![allow(missing_docs, clippy::missing_errors_doc, clippy::too_many_lines, reason = "generated")]
    include!("gen/_.rs");
}

/// SPIRE's public API, by protobuf package.
pub mod spire {
    #![allow(missing_docs, clippy::missing_errors_doc, clippy::too_many_lines, reason = "generated")]

    pub mod agent {
        pub mod debug {
            pub mod v1 {
                include!("gen/spire.agent.debug.v1.rs");
            }
        }
    }

    pub mod api {
        pub mod types {
            include!("gen/spire.api.types.rs");
        }

        pub mod agent {
            pub mod delegatedidentity {
                pub mod v1 {
                    include!("gen/spire.api.agent.delegatedidentity.v1.rs");
                }
            }
            pub mod logger {
                pub mod v1 {
                    include!("gen/spire.api.agent.logger.v1.rs");
                }
            }
        }

        pub mod server {
            pub mod agent {
                pub mod v1 {
                    include!("gen/spire.api.server.agent.v1.rs");
                }
            }
            pub mod bundle {
                pub mod v1 {
                    include!("gen/spire.api.server.bundle.v1.rs");
                }
            }
            pub mod debug {
                pub mod v1 {
                    include!("gen/spire.api.server.debug.v1.rs");
                }
            }
            pub mod entry {
                pub mod v1 {
                    include!("gen/spire.api.server.entry.v1.rs");
                }
            }
            pub mod localauthority {
                pub mod v1 {
                    include!("gen/spire.api.server.localauthority.v1.rs");
                }
            }
            pub mod logger {
                pub mod v1 {
                    include!("gen/spire.api.server.logger.v1.rs");
                }
            }
            pub mod svid {
                pub mod v1 {
                    include!("gen/spire.api.server.svid.v1.rs");
                }
            }
            pub mod trustdomain {
                pub mod v1 {
                    include!("gen/spire.api.server.trustdomain.v1.rs");
                }
            }
        }
    }
}
