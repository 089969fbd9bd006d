//! Who outside the mesh's own policies is asked about requests: the providers that `CUSTOM` policies
//! name (`meshConfig.extensionProviders`, `envoyExtAuthzGrpc` and `envoyExtAuthzHttp`).

use std::time::Duration;

use crate::Text;
use crate::policy::StringMatch;
use crate::service::NamespacedHostname;

/// A provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// The service that is asked.
    pub service: NamespacedHostname,
    /// Its port.
    pub port: u16,
    /// How long an answer may take.
    pub timeout: Duration,
    /// A request passes when there is no answer.
    pub fail_open: bool,
    /// The status of a request that does not pass because there is no answer.
    pub status_on_error: u16,
    /// What of the request's body is shown; nothing without.
    pub body: Option<ShownBody>,
    /// How it is asked.
    pub protocol: CheckProtocol,
}

/// What of a body is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShownBody {
    /// Bytes at most.
    pub max_bytes: u32,
    /// The beginning of a longer one is shown; without, such a request is refused with 413.
    pub partial: bool,
    /// As bytes, not as text (gRPC alone).
    pub raw: bool,
}

/// How a provider is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckProtocol {
    /// By a call of `envoy.service.auth.v3.Authorization/Check`.
    Grpc,
    /// By a request of the same method and path.
    Http(Box<HttpCheck>),
}

/// What goes into a request to a provider, and what of its answer goes on. Names are in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpCheck {
    /// Before the path.
    pub path_prefix: Text,
    /// Headers of the request that the provider sees, beside `Authorization`.
    pub request_headers: Vec<StringMatch>,
    /// Headers that are added.
    pub additional_headers: Vec<(Text, Text)>,
    /// Headers of the answer that the backend sees.
    pub to_backend: Vec<StringMatch>,
    /// Headers of the answer that the client sees of a request that passes.
    pub to_client_on_allow: Vec<StringMatch>,
    /// Headers of the answer that the client sees of one that does not; all of them without any.
    pub to_client_on_deny: Vec<StringMatch>,
}

impl HttpCheck {
    /// Whether a name is in a list.
    pub fn lists(list: &[StringMatch], name: &str) -> bool {
        list.iter().any(|wanted| super::text(wanted, name))
    }
}
