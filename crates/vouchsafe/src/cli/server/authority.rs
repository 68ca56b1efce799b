//! `localauthority` and `upstreamauthority`: the server's signing keys, by hand.

use anyhow::{anyhow, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use tonic::transport::Channel;
use tonic::{Response, Status};
use vouchsafe_proto::spire::api::server::localauthority::v1 as api;
use vouchsafe_proto::spire::api::server::localauthority::v1::AuthorityState;
use vouchsafe_proto::spire::api::server::localauthority::v1::local_authority_client::LocalAuthorityClient;

use super::ServerCall;
use crate::cli::proto_json;
use crate::console::Console;
use crate::go;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum LocalAuthorityCommand {
    /// X.509 authorities
    #[command(subcommand, arg_required_else_help = true)]
    X509(AuthorityCommand),
    /// JWT authorities
    #[command(subcommand, arg_required_else_help = true)]
    Jwt(AuthorityCommand),
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum AuthorityCommand {
    /// Shows the local authorities
    Show(ServerCall),
    /// Prepares a new authority for use: makes a key and publishes it in the bundle
    Prepare(ServerCall),
    /// Activates a prepared authority: from now on this server signs with it
    Activate(ChosenArgs),
    /// Marks the previously active authority as being tainted: what it signed is replaced
    Taint(ChosenArgs),
    /// Revokes the previously active authority: removes it from the bundle, so that nobody trusts what it signed
    Revoke(ChosenArgs),
}

#[derive(Args, Debug)]
pub(in crate::cli) struct ChosenArgs {
    /// The authority ID of the authority
    #[arg(long = "authorityID", value_name = "id", default_value = "", hide_default_value = true)]
    authority_id: String,
    #[command(flatten)]
    call: ServerCall,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum UpstreamAuthorityCommand {
    /// Marks the provided X.509 upstream authority as being tainted
    Taint(UpstreamArgs),
    /// Revokes the previously active X.509 upstream authority by removing it from the bundle
    Revoke(UpstreamArgs),
}

#[derive(Args, Debug)]
pub(in crate::cli) struct UpstreamArgs {
    /// The X.509 Subject Key Identifier (or SKID) of the authority's CA certificate
    #[arg(long = "subjectKeyID", value_name = "id", default_value = "", hide_default_value = true)]
    subject_key_id: String,
    #[command(flatten)]
    call: ServerCall,
}

/// What an authority signs.
#[derive(Clone, Copy)]
enum Kind {
    X509,
    Jwt,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::X509 => "X.509",
            Self::Jwt => "JWT",
        }
    }
}

/// What is done to an authority.
#[derive(Clone, Copy)]
enum Step {
    Prepare,
    Activate,
    Taint,
    Revoke,
}

impl Step {
    /// The verb, and what the authority is afterwards.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Prepare => ("prepare", "prepared"),
            Self::Activate => ("activate", "activated"),
            Self::Taint => ("taint", "tainted"),
            Self::Revoke => ("revoke", "revoked"),
        }
    }
}

pub(super) async fn local(command: LocalAuthorityCommand, console: &mut Console<'_>) -> anyhow::Result<()> {
    let (kind, command) = match command {
        LocalAuthorityCommand::X509(command) => (Kind::X509, command),
        LocalAuthorityCommand::Jwt(command) => (Kind::Jwt, command),
    };
    let (step, arguments) = match command {
        AuthorityCommand::Show(call) => return show(kind, &call, console).await,
        AuthorityCommand::Prepare(call) => return change(kind, Step::Prepare, (&call, ""), console).await,
        AuthorityCommand::Activate(arguments) => (Step::Activate, arguments),
        AuthorityCommand::Taint(arguments) => (Step::Taint, arguments),
        AuthorityCommand::Revoke(arguments) => (Step::Revoke, arguments),
    };
    if arguments.authority_id.is_empty() {
        bail!("an authority ID is required");
    }
    change(kind, step, (&arguments.call, &arguments.authority_id), console).await
}

async fn change(
    kind: Kind,
    step: Step,
    (call, id): (&ServerCall, &str),
    console: &mut Console<'_>,
) -> anyhow::Result<()> {
    let (name, (verb, done)) = (kind.name(), step.words());
    let what = format!("could not {verb} {name} authority");
    let state = call.call(&what, console, async |channel| ask(kind, step, id, channel).await).await?;
    call.output.print(
        console,
        || json!({ format!("{done}_authority"): proto_json::authority(&state) }),
        |console| {
            writeln!(console.stdout, "{} {name} authority:", capitalized(done))?;
            let missing = || anyhow!("internal error: expected to have {done} {name} authority information");
            print_state(kind, state.as_ref().ok_or_else(missing)?, console)
        },
    )
}

async fn ask(
    kind: Kind,
    step: Step,
    id: &str,
    channel: Channel,
) -> Result<Response<Option<AuthorityState>>, Status> {
    let mut client = LocalAuthorityClient::new(channel);
    let authority_id = id.to_owned();
    /// One call: its name, its request, and the field of the answer.
    macro_rules! call {
        ($method:ident, $request:expr, $field:ident) => {
            client.$method($request).await?.into_inner().$field
        };
    }
    let state = match (kind, step) {
        (Kind::X509, Step::Prepare) => {
            call!(prepare_x509_authority, api::PrepareX509AuthorityRequest {}, prepared_authority)
        }
        (Kind::X509, Step::Activate) => {
            let request = api::ActivateX509AuthorityRequest { authority_id };
            call!(activate_x509_authority, request, activated_authority)
        }
        (Kind::X509, Step::Taint) => {
            let request = api::TaintX509AuthorityRequest { authority_id };
            call!(taint_x509_authority, request, tainted_authority)
        }
        (Kind::X509, Step::Revoke) => {
            let request = api::RevokeX509AuthorityRequest { authority_id };
            call!(revoke_x509_authority, request, revoked_authority)
        }
        (Kind::Jwt, Step::Prepare) => {
            call!(prepare_jwt_authority, api::PrepareJwtAuthorityRequest {}, prepared_authority)
        }
        (Kind::Jwt, Step::Activate) => {
            let request = api::ActivateJwtAuthorityRequest { authority_id };
            call!(activate_jwt_authority, request, activated_authority)
        }
        (Kind::Jwt, Step::Taint) => {
            let request = api::TaintJwtAuthorityRequest { authority_id };
            call!(taint_jwt_authority, request, tainted_authority)
        }
        (Kind::Jwt, Step::Revoke) => {
            let request = api::RevokeJwtAuthorityRequest { authority_id };
            call!(revoke_jwt_authority, request, revoked_authority)
        }
    };
    Ok(Response::new(state))
}

/// The authorities in use, prepared, and used before.
type States = [(&'static str, Option<AuthorityState>); 3];

async fn show(kind: Kind, call: &ServerCall, console: &mut Console<'_>) -> anyhow::Result<()> {
    let what = match kind {
        Kind::X509 => "could not get X.509 authorities",
        Kind::Jwt => "",
    };
    let states = call.call(what, console, async |channel| states(kind, channel).await).await?;
    call.output.print(
        console,
        || states.iter().map(|(name, state)| ((*name).to_owned(), proto_json::authority(state))).collect(),
        |console| {
            for (index, (name, state)) in states.iter().enumerate() {
                let separator = if index == 0 { "" } else { "\n" };
                writeln!(console.stdout, "{separator}{} {} authority:", capitalized(name), kind.name())?;
                match state {
                    Some(state) => print_state(kind, state, console)?,
                    None => writeln!(console.stdout, "  No {name} {} authority found", kind.name())?,
                }
            }
            Ok(())
        },
    )
}

async fn states(kind: Kind, channel: Channel) -> Result<Response<States>, Status> {
    let mut client = LocalAuthorityClient::new(channel);
    let (active, prepared, old) = match kind {
        Kind::X509 => {
            let states = client.get_x509_authority_state(api::GetX509AuthorityStateRequest {}).await?;
            let states = states.into_inner();
            (states.active, states.prepared, states.old)
        }
        Kind::Jwt => {
            let states = client.get_jwt_authority_state(api::GetJwtAuthorityStateRequest {}).await?;
            let states = states.into_inner();
            (states.active, states.prepared, states.old)
        }
    };
    Ok(Response::new([("active", active), ("prepared", prepared), ("old", old)]))
}

fn print_state(kind: Kind, state: &AuthorityState, console: &mut Console<'_>) -> anyhow::Result<()> {
    writeln!(console.stdout, "  Authority ID: {}", state.authority_id)?;
    writeln!(console.stdout, "  Expires at: {}", go::time_string(state.expires_at))?;
    let upstream = &state.upstream_authority_subject_key_id;
    match kind {
        Kind::Jwt => {}
        Kind::X509 if upstream.is_empty() => {
            writeln!(console.stdout, "  Upstream authority ID: No upstream authority")?;
        }
        Kind::X509 => writeln!(console.stdout, "  Upstream authority Subject Key ID: {upstream}")?,
    }
    Ok(())
}

pub(super) async fn upstream(
    command: UpstreamAuthorityCommand,
    console: &mut Console<'_>,
) -> anyhow::Result<()> {
    let (step, arguments) = match command {
        UpstreamAuthorityCommand::Taint(arguments) => (Step::Taint, arguments),
        UpstreamAuthorityCommand::Revoke(arguments) => (Step::Revoke, arguments),
    };
    let subject_key_id = arguments.subject_key_id;
    if subject_key_id.is_empty() {
        bail!("the Subject Key ID of the X.509 upstream authority is required");
    }
    let (verb, done) = step.words();
    let what = format!("could not {verb} X.509 upstream authority");
    let answer = arguments.call.call(&what, console, async |channel| {
        let mut client = LocalAuthorityClient::new(channel);
        if matches!(step, Step::Taint) {
            let request = api::TaintX509UpstreamAuthorityRequest { subject_key_id };
            let answer = client.taint_x509_upstream_authority(request).await?;
            Ok(Response::new(answer.into_inner().upstream_authority_subject_key_id))
        } else {
            let request = api::RevokeX509UpstreamAuthorityRequest { subject_key_id };
            let answer = client.revoke_x509_upstream_authority(request).await?;
            Ok(Response::new(answer.into_inner().upstream_authority_subject_key_id))
        }
    });
    let id = answer.await?;
    arguments.call.output.print(
        console,
        || json!({ "upstream_authority_subject_key_id": id }),
        |console| {
            writeln!(console.stdout, "{} X.509 upstream authority:", capitalized(done))?;
            Ok(writeln!(console.stdout, "  Subject Key ID: {id}")?)
        },
    )
}

fn capitalized(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
}
