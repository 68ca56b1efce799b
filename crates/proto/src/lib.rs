//! The gRPC APIs, and the only conversions between their messages and `vouchsafe-types`.
//!
//! The `.proto` files under `proto/` state the wire facts of the SPIFFE Workload API and of SPIRE's public API;
//! `cargo xtask generate` turns them into `src/gen`, which is committed so that a build needs no generator.
//! Nothing outside this crate names a field number, and nothing here decides anything.
//!
//! * [`workload`]  SPIFFE Workload API (no protobuf package, as the standard has it)
//! * [`spire`]     SPIRE's server and agent APIs, by package
//! * [`envoy`]     what SDS v3 needs of Envoy's API, by package: messages have only the fields that are read or written
//! * [`google`]    the status that wraps errors
//! * [`csi`]       the Container Storage Interface, as far as a node driver serves it
//! * [`kubelet`]   how a plugin introduces itself to the kubelet
//! * [`vouchsafe`] what only our programs say to each other
//! * [`convert`]   messages to and from values
//! * [`denial`]    why an agent is denied, in the status detail that agents act on
//! * [`revisions`] what agent and server compute alike when changes are pushed
//! * [`workload_client`] asking a Workload API, as any workload does

pub mod convert;
pub mod denial;
pub mod revisions;
pub mod workload_client;

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

/// The part of Envoy's API that SDS v3 needs, by protobuf package.
pub mod envoy {
    #![allow(missing_docs, clippy::missing_errors_doc, clippy::too_many_lines, reason = "generated")]

    pub mod config {
        pub mod core {
            pub mod v3 {
                include!("gen/envoy.config.core.v3.rs");
            }
        }
    }

    pub mod extensions {
        pub mod transport_sockets {
            pub mod tls {
                pub mod v3 {
                    include!("gen/envoy.extensions.transport_sockets.tls.v3.rs");
                }
            }
        }
    }

    pub mod service {
        pub mod discovery {
            pub mod v3 {
                include!("gen/envoy.service.discovery.v3.rs");
            }
        }
        pub mod secret {
            pub mod v3 {
                include!("gen/envoy.service.secret.v3.rs");
            }
        }
    }

    pub mod r#type {
        pub mod v3 {
            include!("gen/envoy.r#type.v3.rs");
        }
    }
}

/// `google.rpc`.
pub mod google {
    #![allow(missing_docs, reason = "generated")]

    pub mod rpc {
        include!("gen/google.rpc.rs");
    }
}

/// The Container Storage Interface, as far as a node driver for ephemeral volumes serves it.
pub mod csi {
    #![allow(missing_docs, clippy::missing_errors_doc, clippy::too_many_lines, reason = "generated")]

    pub mod v1 {
        include!("gen/csi.v1.rs");
    }
}

/// What the kubelet says to its plugins.
pub mod kubelet {
    #![allow(missing_docs, clippy::missing_errors_doc, clippy::too_many_lines, reason = "generated")]

    pub mod pluginregistration {
        include!("gen/pluginregistration.rs");
    }
}

/// What only our programs say to each other, by protobuf package.
pub mod vouchsafe {
    #![allow(missing_docs, clippy::missing_errors_doc, clippy::too_many_lines, reason = "generated")]

    pub mod agent {
        pub mod v1 {
            include!("gen/vouchsafe.agent.v1.rs");
        }
    }

    pub mod server {
        pub mod v1 {
            include!("gen/vouchsafe.server.v1.rs");
        }
    }
}
