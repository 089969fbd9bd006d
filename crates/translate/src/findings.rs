//! What is to be said about the user's configuration: a code, what is wrong, and what to do.
//!
//! Logs, statuses, the webhook and the command line print the same findings. Codes are never used
//! again for something else.

use std::fmt;

/// Which finding it is. The number is part of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Code {
    /// A principal that no workload can have.
    InvalidPrincipal,
    /// A service account that no workload can have.
    InvalidServiceAccount,
    /// Not an IP address or range.
    InvalidIpBlock,
    /// Not a port.
    InvalidPort,
    /// A value with a wildcard in its middle, or an empty one.
    InvalidValue,
    /// A field or key that this version does not know.
    UnknownAttribute,
    /// HTTP attributes where only connections are seen.
    HttpAttributes,
    /// An action that a node proxy cannot take.
    UnsupportedAction,
    /// A dry-run policy, which is not sent.
    DryRunOff,
    /// A source, operation or condition that says nothing.
    EmptyEntry,
    /// A DENY policy without rules.
    DenyWithoutRules,
    /// Attributes that are known, in a form that cannot be enforced.
    UnsupportedForm,
    /// A policy that reaches no workload in the mesh.
    NoWorkloads,
    /// A target that a policy cannot have.
    InvalidTarget,
    /// An issuer of tokens without keys.
    NoKeys,
    /// A provider that the mesh configuration does not have.
    UnknownProvider,
    /// A setting of traffic that waypoints do not heed.
    NotEnforced,
    /// An expression that cannot be read.
    InvalidExpression,
    /// A `PeerAuthentication` with a selector in the root namespace.
    SelectorInRootNamespace,
    /// Port-level settings without a selector.
    PortsWithoutSelector,
    /// An older `PeerAuthentication` of the same level wins.
    OlderWins,
    /// Mode DISABLE, which is read as PERMISSIVE.
    DisableIsPermissive,
    /// The mesh configuration cannot be read.
    MeshConfigUnreadable,
    /// The mesh configuration has a key that Istio does not have.
    MeshConfigUnknownKey,
    /// The mesh configuration has a key of our own that does not exist.
    MeshConfigUnknownOwnKey,
    /// A value in the mesh configuration cannot be used.
    MeshConfigInvalidValue,
    /// A key of Istio's mesh configuration that would change what is allowed, and is not honoured.
    MeshConfigNotHonoured,
    /// A provider in the mesh configuration that cannot be used.
    UnusableProvider,
    /// An object that the API server gave cannot be read.
    UnreadableObject,
}

impl Code {
    /// The number in `AMB-nnnn`.
    pub fn number(self) -> u16 {
        match self {
            Self::InvalidPrincipal => 1001,
            Self::InvalidServiceAccount => 1002,
            Self::InvalidIpBlock => 1003,
            Self::InvalidPort => 1004,
            Self::InvalidValue => 1005,
            Self::UnknownAttribute => 1006,
            Self::HttpAttributes => 1007,
            Self::UnsupportedAction => 1008,
            Self::DryRunOff => 1009,
            Self::EmptyEntry => 1010,
            Self::DenyWithoutRules => 1011,
            Self::UnsupportedForm => 1013,
            Self::NoWorkloads => 1014,
            Self::InvalidTarget => 1015,
            Self::NoKeys => 1016,
            Self::UnknownProvider => 1017,
            Self::NotEnforced => 1018,
            Self::InvalidExpression => 1019,
            Self::SelectorInRootNamespace => 1101,
            Self::PortsWithoutSelector => 1102,
            Self::OlderWins => 1103,
            Self::DisableIsPermissive => 1104,
            Self::MeshConfigUnreadable => 1201,
            Self::MeshConfigUnknownKey => 1202,
            Self::MeshConfigUnknownOwnKey => 1203,
            Self::MeshConfigInvalidValue => 1204,
            Self::MeshConfigNotHonoured => 1205,
            Self::UnusableProvider => 1206,
            Self::UnreadableObject => 1301,
        }
    }

    /// How bad it is.
    pub fn severity(self) -> Severity {
        match self {
            Self::InvalidPrincipal
            | Self::InvalidServiceAccount
            | Self::InvalidIpBlock
            | Self::InvalidPort
            | Self::InvalidValue
            | Self::UnknownAttribute
            | Self::UnsupportedAction
            | Self::DryRunOff
            | Self::EmptyEntry
            | Self::DenyWithoutRules
            | Self::UnsupportedForm
            | Self::InvalidTarget
            | Self::NoKeys
            | Self::UnknownProvider
            | Self::InvalidExpression
            | Self::SelectorInRootNamespace
            | Self::PortsWithoutSelector
            | Self::MeshConfigUnreadable
            | Self::MeshConfigUnknownOwnKey
            | Self::MeshConfigInvalidValue
            | Self::UnreadableObject => Severity::Error,
            Self::HttpAttributes
            | Self::NoWorkloads
            | Self::OlderWins
            | Self::UnusableProvider
            | Self::NotEnforced
            | Self::MeshConfigUnknownKey
            | Self::MeshConfigNotHonoured => Severity::Warning,
            Self::DisableIsPermissive => Severity::Info,
        }
    }

    /// What to do about it.
    pub fn next_step(self) -> &'static str {
        match self {
            Self::InvalidPrincipal => {
                "write it as <trust domain>/ns/<namespace>/sa/<service account>, without spiffe://, \
                 with * at the beginning or the end only"
            }
            Self::InvalidServiceAccount => "write it as <name> or <namespace>/<name>, without *",
            Self::InvalidIpBlock => "write it as an address or a range, such as 10.0.0.0/8",
            Self::InvalidPort => "write it as a number from 1 to 65535",
            Self::InvalidValue => "write it with * at the beginning or the end only",
            Self::UnknownAttribute => {
                "correct its spelling, or upgrade the control plane if it is new"
            }
            Self::HttpAttributes => {
                "enforce HTTP rules with a waypoint and a policy with targetRefs"
            }
            Self::UnsupportedAction => "use ALLOW or DENY, or a waypoint with targetRefs",
            Self::DryRunOff => {
                "remove the annotation to enforce the policy, or set \
                 AMBIENT_ENABLE_DRY_RUN_AUTHORIZATION_POLICY=true on istiod"
            }
            Self::EmptyEntry => "name at least one attribute, or leave the whole list out",
            Self::DenyWithoutRules => "add a rule; a rule {} matches everything",
            Self::UnsupportedForm => "use an exact value, or a prefix such as td*",
            Self::NoKeys => {
                "give its keys as jwks; until then every token of the issuer is refused"
            }
            Self::UnknownProvider => {
                "add it to meshConfig.extensionProviders, as one of a kind that can do it"
            }
            Self::InvalidExpression => {
                "write it in CEL, with Envoy's attributes, such as response.code >= 400"
            }
            Self::NotEnforced => "remove it, or do without it: the rest of the object holds",
            Self::UnusableProvider => {
                "correct it; until then policies that name it refuse what they match, and it is told \
                 nothing"
            }
            Self::InvalidTarget => {
                "name a Service or Gateway of the policy's namespace, or, in the root namespace, \
                 a GatewayClass"
            }
            Self::NoWorkloads => {
                "compare the selector with the labels of the pods, and check that the namespace is \
                 enrolled (istio.io/dataplane-mode=ambient)"
            }
            Self::SelectorInRootNamespace => {
                "create it in the namespace of the pods that it selects"
            }
            Self::PortsWithoutSelector => "add a selector with at least one label",
            Self::OlderWins => "keep one per level: delete this one or the older one",
            Self::DisableIsPermissive => "use PERMISSIVE to say the same",
            Self::MeshConfigUnreadable => {
                "correct key mesh of the ConfigMap; until then the last good configuration holds"
            }
            Self::MeshConfigUnknownKey => "correct its spelling, or remove it",
            Self::MeshConfigNotHonoured => "remove it; nothing here depends on it yet",
            Self::MeshConfigUnknownOwnKey | Self::MeshConfigInvalidValue => {
                "correct it; until then the last good configuration holds"
            }
            Self::UnreadableObject => {
                "correct the object; until then its last good version holds, if there was one"
            }
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AMB-{:04}", self.number())
    }
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Everything works as written.
    Info,
    /// Something does less than it seems to.
    Warning,
    /// Something does not do what is written.
    Error,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which.
    pub code: Code,
    /// Where in the object, for example `spec.rules[0].from[1].source.principals`; may be empty.
    pub field: String,
    /// What is wrong, in a sentence without full stop.
    pub message: String,
}

impl Finding {
    /// A finding at a field.
    pub fn new(code: Code, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code,
            field: field.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.code)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        write!(f, "{}; {}", self.message, self.code.next_step())
    }
}
