//! A PKI of the operator's, and nodes that attest with its certificates.

use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PSS_SHA256, RsaKeyPair, RsaPssSaltLength,
    RsaSignatureEncoding,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType, SignatureAlgorithm,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use vouchsafe_identity::path::Authorities;
use vouchsafe_proto::spire::api::server::agent::v1::{
    AgentX509svidParams, AttestAgentRequest, attest_agent_request, attest_agent_response,
};
use vouchsafe_proto::spire::api::types;
use vouchsafe_server::config::admission::{X509Pop, X509PopMode};

use super::TestServer;
use super::agent::{TestAgent, key_and_csr};

pub static GO_SALT: RsaSignatureEncoding = RSA_PSS_SHA256.with_pss_salt_length(RsaPssSaltLength::Max);

/// A PKI of the operator's.
pub struct Pki {
    pub issuer: Issuer<'static, KeyPair>,
    pub root: Arc<[u8]>,
}

impl Pki {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "fleet CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = Arc::from(&**params.self_signed(&key).unwrap().der());
        Self { issuer: Issuer::new(params, key), root }
    }

    pub fn settings(&self) -> X509Pop {
        X509Pop::new(X509PopMode::ExternalPki(Authorities::new([self.root.clone()])))
    }

    pub fn node(&self) -> Node {
        self.node_with(|_| {})
    }

    pub fn node_with(&self, adjust: impl FnOnce(&mut CertificateParams)) -> Node {
        let key = KeyPair::generate().unwrap();
        let der = self.certify(&key, adjust);
        let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &key.serialize_der()).unwrap();
        Node { chain: vec![der], key: Key::Ec(signer) }
    }

    /// A node whose key is RSA.
    pub fn rsa_node(&self, salt: &'static RsaSignatureEncoding) -> Node {
        let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let der = self.certify(&RsaPublic(key.public_key().as_ref().to_vec()), |_| {});
        Node { chain: vec![der], key: Key::Rsa(key, salt) }
    }

    pub fn certify(&self, key: &impl PublicKeyData, adjust: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "node-1");
        params.serial_number = Some(vec![0x0a, 0xbc].into());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let uri = "x509pop://example.org/rack/7/left";
        params.subject_alt_names =
            vec![SanType::URI(uri.try_into().unwrap()), SanType::IpAddress([127, 0, 0, 1].into())];
        adjust(&mut params);
        params.signed_by(key, &self.issuer).unwrap().der().to_vec()
    }
}

struct RsaPublic(Vec<u8>);

impl PublicKeyData for RsaPublic {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }
    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

pub struct Node {
    pub chain: Vec<Vec<u8>>,
    pub key: Key,
}

pub enum Key {
    Ec(EcdsaKeyPair),
    Rsa(RsaKeyPair, &'static RsaSignatureEncoding),
}

impl Node {
    pub fn payload(&self) -> Vec<u8> {
        let chain: Vec<_> = self.chain.iter().map(|der| STANDARD.encode(der)).collect();
        json!({ "certificates": chain }).to_string().into_bytes()
    }

    pub fn fingerprint(&self) -> String {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, &self.chain[0]);
        hex::encode(digest)
    }

    pub fn respond(&self, challenge: &[u8]) -> Vec<u8> {
        let challenge: Value = serde_json::from_slice(challenge).unwrap();
        let nonce = |kind: &str| STANDARD.decode(challenge[kind]["nonce"].as_str().unwrap()).unwrap();
        let (random, own) = (SystemRandom::new(), [5; 32]);
        match &self.key {
            Key::Ec(key) => {
                let message = [nonce("ecdsa_signature"), own.to_vec()].concat();
                let der = key.sign(&random, &message).unwrap();
                let der = der.as_ref();
                let length = usize::from(der[3]);
                let (r, s) = (&der[4..4 + length], &der[6 + length..]);
                let (r, s) = (STANDARD.encode(r), STANDARD.encode(s));
                json!({"ecdsa_signature": {"nonce": STANDARD.encode(own), "r": r, "s": s}})
            }
            Key::Rsa(key, salt) => {
                let message = [nonce("rsa_signature"), own.to_vec()].concat();
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(*salt, &random, &message, &mut signature).unwrap();
                let signature = STANDARD.encode(signature);
                json!({"rsa_signature": {"nonce": STANDARD.encode(own), "signature": signature}})
            }
        }
        .to_string()
        .into_bytes()
    }

    pub async fn attest(&self, server: &TestServer) -> Result<attest_agent_response::Result, Status> {
        converse(server, self.payload(), key_and_csr().await.1, |challenge| self.respond(challenge)).await
    }

    /// Attests and lives on as an agent.
    pub async fn join(&self, server: &TestServer) -> TestAgent {
        let (key, csr) = key_and_csr().await;
        let result = converse(server, self.payload(), csr, |challenge| self.respond(challenge)).await;
        TestAgent::with(server, key, &result.unwrap().svid.unwrap())
    }
}

pub async fn converse(
    server: &TestServer,
    payload: Vec<u8>,
    csr: Bytes,
    respond: impl Fn(&[u8]) -> Vec<u8>,
) -> Result<attest_agent_response::Result, Status> {
    converse_as("x509pop", server, (payload, csr), respond).await
}

/// Attests with what the attestor `kind` takes, and a request for a certificate.
pub async fn converse_as(
    kind: &str,
    server: &TestServer,
    (payload, csr): (Vec<u8>, Bytes),
    respond: impl Fn(&[u8]) -> Vec<u8>,
) -> Result<attest_agent_response::Result, Status> {
    let (sender, requests) = mpsc::channel(2);
    let data = types::AttestationData { r#type: kind.into(), payload: payload.into() };
    let params = attest_agent_request::Params { data: Some(data), params: Some(AgentX509svidParams { csr }) };
    let step = Some(attest_agent_request::Step::Params(params));
    sender.send(AttestAgentRequest { step }).await.unwrap();
    let api = server.connect(None);
    let mut answers = api.agents().attest_agent(ReceiverStream::new(requests)).await?.into_inner();
    loop {
        match answers.message().await?.and_then(|answer| answer.step) {
            Some(attest_agent_response::Step::Challenge(challenge)) => {
                let response = respond(&challenge).into();
                let step = Some(attest_agent_request::Step::ChallengeResponse(response));
                sender.send(AttestAgentRequest { step }).await.unwrap();
            }
            Some(attest_agent_response::Step::Result(result)) => return Ok(result),
            None => panic!("the stream ended without a result"),
        }
    }
}
