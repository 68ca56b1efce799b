//! The parts that every certificate of the profile shares.

use crate::der::{Writer, oid, tag, time};
use crate::signer::SignatureAlgorithm;

/// `[0] { INTEGER 2 }`: X.509 version 3.
const VERSION_3: &[u8] = &[0xa0, 3, 2, 1, 2];

/// keyUsage (critical): digitalSignature, keyEncipherment, keyAgreement.
const SVID_KEY_USAGE: &[u8] = &[0x30, 14, 6, 3, 0x55, 0x1d, 15, 1, 1, 0xff, 4, 4, 3, 2, 3, 0xa8];

/// keyUsage (critical): keyCertSign, cRLSign.
const CA_KEY_USAGE: &[u8] = &[0x30, 14, 6, 3, 0x55, 0x1d, 15, 1, 1, 0xff, 4, 4, 3, 2, 1, 0x06];

/// extKeyUsage: serverAuth, clientAuth.
const EXTENDED_KEY_USAGE: &[u8] = &[
    0x30, 29, 6, 3, 0x55, 0x1d, 37, 4, 22, 0x30, 20, //
    6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 1, //
    6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 2,
];

/// basicConstraints (critical): no CA.
const NO_CA: &[u8] = &[0x30, 12, 6, 3, 0x55, 0x1d, 19, 1, 1, 0xff, 4, 2, 0x30, 0];

/// basicConstraints (critical): CA, any path length.
const CA: &[u8] = &[0x30, 15, 6, 3, 0x55, 0x1d, 19, 1, 1, 0xff, 4, 5, 0x30, 3, 1, 1, 0xff];

/// What a certificate says.
pub(super) struct Tbs<'a> {
    pub(super) serial: u128,
    pub(super) algorithm: SignatureAlgorithm,
    /// DER of the issuer's name, copied.
    pub(super) issuer: Name<'a>,
    pub(super) not_before: i64,
    pub(super) not_after: i64,
    pub(super) subject: Name<'a>,
    pub(super) public_key_der: &'a [u8],
    pub(super) is_ca: bool,
    pub(super) subject_key_id: &'a [u8],
    pub(super) authority_key_id: Option<&'a [u8]>,
    pub(super) uri: &'a str,
    pub(super) dns_names: &'a [String],
}

/// A name that is copied, or one that is written.
#[derive(Clone, Copy)]
pub(super) enum Name<'a> {
    Copied(&'a [u8]),
    Written(&'a super::Subject),
}

impl Name<'_> {
    fn write(self, writer: &mut Writer) {
        match self {
            Self::Copied(der) => writer.raw(der),
            Self::Written(subject) => subject.write(writer),
        }
    }
}

/// `C=US, O=SPIRE` as DER: the name of nearly every SVID.
pub(super) const SVID_SUBJECT: &[u8] = &[
    0x30, 29, 0x31, 11, 0x30, 9, 6, 3, 0x55, 4, 6, 0x13, 2, b'U', b'S', //
    0x31, 14, 0x30, 12, 6, 3, 0x55, 4, 10, 0x13, 5, b'S', b'P', b'I', b'R', b'E',
];

impl Tbs<'_> {
    /// Writes the TBSCertificate (RFC 5280 §4.1).
    pub(super) fn write(&self, writer: &mut Writer) {
        writer.nested(tag::SEQUENCE, |writer| {
            writer.raw(VERSION_3);
            writer.unsigned(self.serial);
            writer.raw(self.algorithm.identifier());
            self.issuer.write(writer);
            writer.nested(tag::SEQUENCE, |writer| {
                time::write(writer, self.not_before);
                time::write(writer, self.not_after);
            });
            self.subject.write(writer);
            writer.raw(self.public_key_der);
            writer.nested(tag::constructed(3), |writer| {
                writer.nested(tag::SEQUENCE, |writer| self.write_extensions(writer));
            });
        });
    }

    fn write_extensions(&self, writer: &mut Writer) {
        if self.is_ca {
            writer.raw(CA_KEY_USAGE);
            writer.raw(CA);
        } else {
            writer.raw(SVID_KEY_USAGE);
            writer.raw(EXTENDED_KEY_USAGE);
            writer.raw(NO_CA);
        }
        write_key_id(writer, 14, |writer| writer.value(tag::OCTET_STRING, self.subject_key_id));
        if let Some(id) = self.authority_key_id {
            write_key_id(writer, 35, |writer| {
                writer.nested(tag::SEQUENCE, |writer| writer.value(tag::context(0), id));
            });
        }
        // X509-SVID §2: an SVID "MUST contain exactly one URI SAN". The subject is never empty, so RFC 5280
        // §4.2.1.6 leaves the extension not critical.
        write_alternative_names(writer, self.dns_names, Some(self.uri));
    }
}

fn write_key_id(writer: &mut Writer, extension: u8, write: impl FnOnce(&mut Writer)) {
    writer.nested(tag::SEQUENCE, |writer| {
        writer.raw(&[tag::OID, 3, 0x55, 0x1d, extension]);
        writer.nested(tag::OCTET_STRING, write);
    });
}

/// Writes subjectAltName: DNS names, then the URI, as Go orders them.
pub(super) fn write_alternative_names(writer: &mut Writer, dns_names: &[String], uri: Option<&str>) {
    writer.nested(tag::SEQUENCE, |writer| {
        writer.value(tag::OID, oid::SUBJECT_ALT_NAME);
        writer.nested(tag::OCTET_STRING, |writer| {
            writer.nested(tag::SEQUENCE, |writer| {
                for name in dns_names {
                    writer.value(tag::context(2), name.as_bytes());
                }
                if let Some(uri) = uri {
                    writer.value(tag::context(6), uri.as_bytes());
                }
            });
        });
    });
}
