//! Metric names of RPCs.
//!
//! Dashboards know these names, so they are derived exactly as SPIRE derives them, with its irregular treatment of
//! acronyms (`fetch_jwtsvi_ds`).

/// Service names that are replaced, the longest first where one holds another. The first that fits is taken.
const SERVICES: &[(&str, &str)] = &[
    ("SpiffeWorkloadAPI", "WorkloadAPI"),
    ("envoy.service.secret.v3.SecretDiscoveryService", "SDS.v3"),
    ("grpc.health.v1.Health", "Health"),
    ("spire.api.server.logger.v1.Logger", "Logger"),
    ("spire.api.agent.logger.v1.Logger", "Logger"),
    ("spire.agent.debug.v1.Debug", "Debug"),
    ("spire.api.agent.delegatedidentity.v1.DelegatedIdentity", "DelegatedIdentity"),
];
const SERVER_PREFIX: &str = "spire.api.server.";
/// The one method whose derived key would be wrong and was mended.
const METHODS: &[(&str, &str)] = &[("SubscribeToX509SVIDs", "subscribe_to_x509_svids")];

/// `/spire.api.server.agent.v1.Agent/AttestAgent` → `rpc_agent_v1_agent_attest_agent`.
pub(super) fn metric_name(path: &str) -> String {
    format!("rpc_{}", words(path))
}

/// `/spire.api.server.agent.v1.Agent/AttestAgent` → `agent.v1.Agent` and `AttestAgent`, as SPIRE's log names them.
#[must_use]
pub fn service_and_method(path: &str) -> (&str, &str) {
    let (service, method) = path.strip_prefix('/').unwrap_or(path).split_once('/').unwrap_or((path, ""));
    let short = SERVICES.iter().find(|(long, _)| *long == service).map(|(_, short)| *short);
    (short.unwrap_or_else(|| service.strip_prefix(SERVER_PREFIX).unwrap_or(service)), method)
}

/// `/spire.api.server.agent.v1.Agent/AttestAgent` → `agent_v1_agent_attest_agent`: what names of metrics about this
/// method have in common.
#[must_use]
pub fn words(path: &str) -> String {
    let (service, method) = service_and_method(path);
    let mut name = String::new();
    for word in service.split('.') {
        name.push_str(&metric_key(word));
        name.push('_');
    }
    match METHODS.iter().find(|(long, _)| *long == method) {
        Some((_, key)) => name.push_str(key),
        None => name.push_str(&metric_key(method)),
    }
    name
}

/// PascalCase to snake_case; anything but letters and digits becomes an underscore. An underscore is put before an
/// upper-case letter that is neither first nor last, has a lower-case neighbour, and does not follow one already.
pub(super) fn metric_key(word: &str) -> String {
    let letters: Vec<char> = word.chars().collect();
    let mut key = String::with_capacity(word.len() + 8);
    for (place, letter) in letters.iter().enumerate() {
        if !letter.is_alphanumeric() {
            key.push('_');
            continue;
        }
        let inside = place > 0 && place + 1 < letters.len();
        if letter.is_uppercase()
            && inside
            && (letters[place - 1].is_lowercase() || letters[place + 1].is_lowercase())
            && !key.ends_with('_')
        {
            key.push('_');
        }
        key.extend(letter.to_lowercase());
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_keys_as_dashboards_know_them() {
        for (word, key) in [
            ("One", "one"),
            ("one,two,three,Four", "one_two_three_four"),
            ("ABCDef", "abc_def"),
            ("v1", "v1"),
            ("AbcDEF", "abc_def"),
            ("OneTWOThree", "one_two_three"),
            ("ONETwoTHREE", "one_two_three"),
        ] {
            assert_eq!(metric_key(word), key, "{word}");
        }
    }

    #[test]
    fn rpcs_have_the_names_that_dashboards_know() {
        for (prefix, service, name, methods) in TABLE {
            for (method, key) in *methods {
                let expected = format!("rpc_{name}_{key}");
                assert_eq!(metric_name(&format!("/{prefix}{service}/{method}")), expected);
            }
        }
    }

    type Row = (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str)]);

    const TABLE: &[Row] = &[
        ("spire.api.server.", "logger.v1.Logger", "logger", LOGGER),
        ("spire.api.agent.", "logger.v1.Logger", "logger", LOGGER),
        (
            "spire.api.server.",
            "agent.v1.Agent",
            "agent_v1_agent",
            &[
                ("AttestAgent", "attest_agent"),
                ("BanAgent", "ban_agent"),
                ("CountAgents", "count_agents"),
                ("CreateJoinToken", "create_join_token"),
                ("DeleteAgent", "delete_agent"),
                ("GetAgent", "get_agent"),
                ("ListAgents", "list_agents"),
                ("PostStatus", "post_status"),
                ("RenewAgent", "renew_agent"),
            ],
        ),
        (
            "spire.api.server.",
            "bundle.v1.Bundle",
            "bundle_v1_bundle",
            &[
                ("AppendBundle", "append_bundle"),
                ("BatchCreateFederatedBundle", "batch_create_federated_bundle"),
                ("CountBundles", "count_bundles"),
                ("GetBundle", "get_bundle"),
                ("ListFederatedBundles", "list_federated_bundles"),
                ("PublishJWTAuthority", "publish_jwt_authority"),
                ("PublishWITAuthority", "publish_wit_authority"),
            ],
        ),
        ("spire.api.server.", "debug.v1.Debug", "debug_v1_debug", &[("GetInfo", "get_info")]),
        ("", "spire.agent.debug.v1.Debug", "debug", &[("GetInfo", "get_info")]),
        (
            "spire.api.server.",
            "entry.v1.Entry",
            "entry_v1_entry",
            &[
                ("BatchCreateEntry", "batch_create_entry"),
                ("CountEntries", "count_entries"),
                ("GetAuthorizedEntries", "get_authorized_entries"),
                ("SyncAuthorizedEntries", "sync_authorized_entries"),
            ],
        ),
        (
            "spire.api.server.",
            "localauthority.v1.LocalAuthority",
            "localauthority_v1_local_authority",
            &[
                ("ActivateJWTAuthority", "activate_jwt_authority"),
                ("ActivateX509Authority", "activate_x509_authority"),
                ("GetJWTAuthorityState", "get_jwt_authority_state"),
                ("GetX509AuthorityState", "get_x509_authority_state"),
                ("RevokeX509UpstreamAuthority", "revoke_x509_upstream_authority"),
                ("TaintWITAuthority", "taint_wit_authority"),
            ],
        ),
        (
            "spire.api.server.",
            "svid.v1.SVID",
            "svid_v1_svid",
            &[
                ("BatchNewWITSVID", "batch_new_witsvid"),
                ("BatchNewX509SVID", "batch_new_x509svid"),
                ("MintJWTSVID", "mint_jwtsvid"),
                ("MintX509SVID", "mint_x509svid"),
                ("NewDownstreamX509CA", "new_downstream_x509ca"),
                ("NewJWTSVID", "new_jwtsvid"),
            ],
        ),
        (
            "spire.api.server.",
            "trustdomain.v1.TrustDomain",
            "trustdomain_v1_trust_domain",
            &[("BatchCreateFederationRelationship", "batch_create_federation_relationship")],
        ),
        (
            "spire.api.agent.",
            "delegatedidentity.v1.DelegatedIdentity",
            "delegated_identity",
            &[
                ("FetchJWTSVIDs", "fetch_jwtsvi_ds"),
                ("SubscribeToJWTBundles", "subscribe_to_jwt_bundles"),
                ("SubscribeToX509Bundles", "subscribe_to_x509_bundles"),
                ("SubscribeToX509SVIDs", "subscribe_to_x509_svids"),
            ],
        ),
        (
            "",
            "SpiffeWorkloadAPI",
            "workload_api",
            &[
                ("FetchJWTBundles", "fetch_jwt_bundles"),
                ("FetchJWTSVID", "fetch_jwtsvid"),
                ("FetchWITBundles", "fetch_wit_bundles"),
                ("FetchX509Bundles", "fetch_x509_bundles"),
                ("FetchX509SVID", "fetch_x509svid"),
                ("ValidateJWTSVID", "validate_jwtsvid"),
            ],
        ),
        (
            "envoy.service.secret.v3.",
            "SecretDiscoveryService",
            "sds_v3",
            &[
                ("DeltaSecrets", "delta_secrets"),
                ("FetchSecrets", "fetch_secrets"),
                ("StreamSecrets", "stream_secrets"),
            ],
        ),
        ("grpc.health.v1.", "Health", "health", &[("Check", "check"), ("List", "list"), ("Watch", "watch")]),
        (
            "grpc.reflection.v1alpha.",
            "ServerReflection",
            "grpc_reflection_v1alpha_server_reflection",
            &[("ServerReflectionInfo", "server_reflection_info")],
        ),
    ];

    const LOGGER: &[(&str, &str)] = &[
        ("GetLogger", "get_logger"),
        ("SetLogLevel", "set_log_level"),
        ("ResetLogLevel", "reset_log_level"),
    ];
}
