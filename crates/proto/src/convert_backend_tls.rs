//! TLS to endpoints: messages to model and back. What is not understood closes: nothing is sent in
//! plain text for want of an understanding.

use std::sync::Arc;

use ambit_model::traffic::{BackendTls, ClientTls, Origination, TlsName};

use crate::convert::ConvertError;
use crate::convert_route::{service, service_key};
use crate::l7 as pb;

impl TryFrom<pb::BackendTls> for BackendTls {
    type Error = ConvertError;

    fn try_from(m: pb::BackendTls) -> Result<Self, ConvertError> {
        let target = |m: pb::Parent| {
            let port = u16::try_from(m.port).map_err(|_| ConvertError::Missing("a port"))?;
            let service = service(m.service).ok_or(ConvertError::Missing("service"))?;
            Ok::<_, ConvertError>((service, (port != 0).then_some(port)))
        };
        let tls = match m.tls {
            Some(pb::backend_tls::Tls::Client(m)) => origination(m),
            Some(pb::backend_tls::Tls::Unusable(reason)) => Origination::Unusable(reason.into()),
            None => Origination::Unusable("this proxy does not understand it".into()),
        };
        Ok(Self {
            namespace: m.namespace.into(),
            name: m.name.into(),
            created: m.created,
            targets: m
                .targets
                .into_iter()
                .map(target)
                .collect::<Result<_, _>>()?,
            tls: Arc::new(tls),
        })
    }
}

fn origination(m: pb::ClientTls) -> Origination {
    let name = |m: pb::TlsName| match m.kind? {
        pb::tls_name::Kind::Dns(name) => Some(TlsName::Dns(name.into())),
        pb::tls_name::Kind::Uri(uri) => Some(TlsName::Uri(uri.into())),
    };
    match m.names.into_iter().map(name).collect() {
        Some(names) => Origination::Tls(ClientTls {
            server: m.server.into(),
            names,
            authorities: (!m.authorities.is_empty()).then(|| m.authorities.into()),
        }),
        None => Origination::Unusable("this proxy does not understand its names".into()),
    }
}

impl From<&BackendTls> for pb::BackendTls {
    fn from(policy: &BackendTls) -> Self {
        let targets = policy.targets.iter();
        let tls = match &*policy.tls {
            Origination::Tls(tls) => pb::backend_tls::Tls::Client(tls.into()),
            Origination::Unusable(reason) => pb::backend_tls::Tls::Unusable(reason.to_string()),
        };
        Self {
            namespace: policy.namespace.to_string(),
            name: policy.name.to_string(),
            created: policy.created,
            targets: targets
                .map(|(service, port)| pb::Parent {
                    service: Some(service_key(service)),
                    port: port.map_or(0, u32::from),
                })
                .collect(),
            tls: Some(tls),
        }
    }
}

impl From<&ClientTls> for pb::ClientTls {
    fn from(tls: &ClientTls) -> Self {
        let name = |name: &TlsName| pb::TlsName {
            kind: Some(match name {
                TlsName::Dns(name) => pb::tls_name::Kind::Dns(name.to_string()),
                TlsName::Uri(uri) => pb::tls_name::Kind::Uri(uri.to_string()),
            }),
        };
        let authorities = tls.authorities.as_ref();
        Self {
            server: tls.server.to_string(),
            names: tls.names.iter().map(name).collect(),
            authorities: authorities.map(ToString::to_string).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ambit_model::service::NamespacedHostname;

    #[test]
    fn nothing_is_lost_on_the_way() {
        let service = NamespacedHostname::new("shop", "cart");
        let client = Origination::Tls(ClientTls {
            server: "cart.example.com".into(),
            names: vec![TlsName::Dns("a".into()), TlsName::Uri("spiffe://b".into())],
            authorities: Some("pem".into()),
        });
        for tls in [client, Origination::Unusable("no authority".into())] {
            let policy = BackendTls {
                namespace: "shop".into(),
                name: "tls".into(),
                created: 7,
                targets: vec![(service.clone(), None), (service.clone(), Some(443))],
                tls: Arc::new(tls),
            };
            let message = pb::BackendTls::from(&policy);
            assert_eq!(BackendTls::try_from(message).unwrap(), policy);
        }
    }

    #[test]
    fn what_is_not_understood_closes() {
        let unusable = |message: pb::BackendTls| {
            let policy = BackendTls::try_from(message).unwrap();
            matches!(*policy.tls, Origination::Unusable(_))
        };
        assert!(unusable(pb::BackendTls::default()));
        let client = pb::ClientTls {
            names: vec![pb::TlsName { kind: None }],
            ..pb::ClientTls::default()
        };
        assert!(unusable(pb::BackendTls {
            tls: Some(pb::backend_tls::Tls::Client(client)),
            ..pb::BackendTls::default()
        }));
    }
}
