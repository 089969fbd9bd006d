//! What is told about requests: messages to model and back. Nothing here decides who may pass; what
//! cannot be read is refused as a whole, and the last good one holds.

use std::time::Duration;

use ambit_model::Text;
use ambit_model::telemetry::{
    Collector, CollectorProtocol, Context, LogFormat, LogProvider, Logging, Metric, MetricOverride,
    Tag, Telemetry, TraceProvider, Tracing,
};

use crate::convert::ConvertError;
use crate::convert_access::attachment;
use crate::convert_route::{service, service_key, span};
use crate::l7 as pb;

impl TryFrom<pb::Telemetry> for Telemetry {
    type Error = ConvertError;

    fn try_from(m: pb::Telemetry) -> Result<Self, ConvertError> {
        let attachments = m.attachments.into_iter().map(attachment);
        let attachments = attachments.collect::<Option<_>>();
        Ok(Self {
            namespace: m.namespace.into(),
            name: m.name.into(),
            created: m.created,
            root: m.root,
            attachments: attachments.ok_or(ConvertError::Missing("an attachment"))?,
            logs: m.logs.into_iter().map(logging).collect::<Result<_, _>>()?,
            tracing: m
                .tracing
                .into_iter()
                .map(tracing)
                .collect::<Result<_, _>>()?,
            metrics: m
                .metrics
                .into_iter()
                .map(metric_override)
                .collect::<Result<_, _>>()?,
        })
    }
}

fn logging(m: pb::Logging) -> Result<Logging, ConvertError> {
    let providers = m.providers.into_iter().map(log_provider);
    Ok(Logging {
        providers: providers.collect::<Result<_, _>>()?,
        disabled: m.disabled,
        filter: (!m.filter.is_empty()).then(|| m.filter.into()),
    })
}

fn log_provider(m: pb::LogProvider) -> Result<LogProvider, ConvertError> {
    let format = match m.format.ok_or(ConvertError::Missing("format"))? {
        pb::log_provider::Format::Text(text) => LogFormat::Text(text.into()),
        pb::log_provider::Format::Json(m) => LogFormat::Json(pairs(m.fields)),
    };
    Ok(LogProvider {
        name: m.name.into(),
        format,
        collector: m.collector.map(collector).transpose()?,
    })
}

fn pairs(list: Vec<pb::Header>) -> Vec<(Text, Text)> {
    let pairs = list.into_iter();
    pairs.map(|m| (m.name.into(), m.value.into())).collect()
}

fn collector(m: pb::Collector) -> Result<Collector, ConvertError> {
    use pb::collector::Protocol as Pb;
    let missing = ConvertError::Missing;
    let timeout = m.timeout.ok_or(missing("timeout"))?;
    Ok(Collector {
        service: service(m.service).ok_or(missing("service"))?,
        port: u16::try_from(m.port).map_err(|_| missing("port"))?,
        timeout: Duration::try_from(timeout).map_err(|_| missing("timeout"))?,
        headers: pairs(m.headers),
        protocol: match m.protocol.ok_or(missing("protocol"))? {
            Pb::OtlpGrpc(_) => CollectorProtocol::OtlpGrpc,
            Pb::OtlpHttp(path) => CollectorProtocol::OtlpHttp(path.into()),
            Pb::Zipkin(path) => CollectorProtocol::Zipkin(path.into()),
        },
    })
}

fn tracing(m: pb::Tracing) -> Result<Tracing, ConvertError> {
    let tag = |(name, m): (String, pb::Tag)| {
        let kind = m.kind.ok_or(ConvertError::Missing("a tag"))?;
        Ok((name.into(), tag(kind)))
    };
    Ok(Tracing {
        provider: m.provider.map(trace_provider).transpose()?,
        sampling: m.sampling,
        no_spans: m.no_spans,
        no_propagation: m.no_propagation,
        mesh_tags: m.mesh_tags,
        by_request_id: m.by_request_id,
        tags: m.tags.into_iter().map(tag).collect::<Result<_, _>>()?,
    })
}

fn trace_provider(m: pb::TraceProvider) -> Result<TraceProvider, ConvertError> {
    let context = match m.context() {
        pb::trace_provider::Context::W3c => Context::W3c,
        pb::trace_provider::Context::B3 => Context::B3,
        pb::trace_provider::Context::B3AndW3c => Context::B3AndW3c,
    };
    Ok(TraceProvider {
        name: m.name.into(),
        collector: collector(m.collector.ok_or(ConvertError::Missing("collector"))?)?,
        context,
        max_tag_length: m.max_tag_length,
    })
}

fn tag(kind: pb::tag::Kind) -> Tag {
    match kind {
        pb::tag::Kind::Literal(text) => Tag::Literal(text.into()),
        pb::tag::Kind::Environment(m) => Tag::Environment(m.name.into(), m.value.into()),
        pb::tag::Kind::Header(m) => Tag::Header(m.name.into(), m.value.into()),
        pb::tag::Kind::Format(text) => Tag::Format(text.into()),
    }
}

fn metric_override(m: pb::MetricOverride) -> Result<MetricOverride, ConvertError> {
    let metric = |number: &i32| {
        let known = usize::try_from(*number)
            .ok()
            .and_then(|n| Metric::ALL.get(n));
        known.copied().ok_or(ConvertError::Missing("a metric"))
    };
    let label = |(name, m): (String, pb::Label)| {
        let value = (!m.value.is_empty()).then(|| m.value.into());
        (name.into(), value)
    };
    Ok(MetricOverride {
        metrics: m.metrics.iter().map(metric).collect::<Result<_, _>>()?,
        disabled: m.disabled,
        labels: m.labels.into_iter().map(label).collect(),
    })
}

impl From<&Telemetry> for pb::Telemetry {
    fn from(telemetry: &Telemetry) -> Self {
        Self {
            namespace: telemetry.namespace.to_string(),
            name: telemetry.name.to_string(),
            created: telemetry.created,
            root: telemetry.root,
            attachments: telemetry.attachments.iter().map(Into::into).collect(),
            logs: telemetry.logs.iter().map(Into::into).collect(),
            tracing: telemetry.tracing.iter().map(Into::into).collect(),
            metrics: telemetry.metrics.iter().map(Into::into).collect(),
        }
    }
}

impl From<&Logging> for pb::Logging {
    fn from(logging: &Logging) -> Self {
        Self {
            providers: logging.providers.iter().map(Into::into).collect(),
            disabled: logging.disabled,
            filter: text(logging.filter.as_ref()),
        }
    }
}

fn text(text: Option<&Text>) -> String {
    text.map(ToString::to_string).unwrap_or_default()
}

impl From<&LogProvider> for pb::LogProvider {
    fn from(provider: &LogProvider) -> Self {
        use pb::log_provider::Format;
        Self {
            name: provider.name.to_string(),
            format: Some(match &provider.format {
                LogFormat::Text(text) => Format::Text(text.to_string()),
                LogFormat::Json(fields) => Format::Json(pb::JsonFormat {
                    fields: of_pairs(fields),
                }),
            }),
            collector: provider.collector.as_ref().map(Into::into),
        }
    }
}

fn of_pairs(pairs: &[(Text, Text)]) -> Vec<pb::Header> {
    pairs
        .iter()
        .map(|(name, value)| header(name, value))
        .collect()
}

fn header(name: &Text, value: &Text) -> pb::Header {
    pb::Header {
        name: name.to_string(),
        value: value.to_string(),
    }
}

impl From<&Collector> for pb::Collector {
    fn from(collector: &Collector) -> Self {
        use pb::collector::Protocol as Pb;
        Self {
            service: Some(service_key(&collector.service)),
            port: collector.port.into(),
            timeout: Some(span(collector.timeout)),
            headers: of_pairs(&collector.headers),
            protocol: Some(match &collector.protocol {
                CollectorProtocol::OtlpGrpc => Pb::OtlpGrpc(pb::Nothing {}),
                CollectorProtocol::OtlpHttp(path) => Pb::OtlpHttp(path.to_string()),
                CollectorProtocol::Zipkin(path) => Pb::Zipkin(path.to_string()),
            }),
        }
    }
}

impl From<&Tracing> for pb::Tracing {
    fn from(tracing: &Tracing) -> Self {
        let tag = |(name, tag): (&Text, &Tag)| (name.to_string(), tag.into());
        Self {
            provider: tracing.provider.as_ref().map(Into::into),
            sampling: tracing.sampling,
            no_spans: tracing.no_spans,
            no_propagation: tracing.no_propagation,
            mesh_tags: tracing.mesh_tags,
            by_request_id: tracing.by_request_id,
            tags: tracing.tags.iter().map(tag).collect(),
        }
    }
}

impl From<&TraceProvider> for pb::TraceProvider {
    fn from(provider: &TraceProvider) -> Self {
        let context = match provider.context {
            Context::W3c => pb::trace_provider::Context::W3c,
            Context::B3 => pb::trace_provider::Context::B3,
            Context::B3AndW3c => pb::trace_provider::Context::B3AndW3c,
        };
        Self {
            name: provider.name.to_string(),
            collector: Some((&provider.collector).into()),
            context: context.into(),
            max_tag_length: provider.max_tag_length,
        }
    }
}

impl From<&Tag> for pb::Tag {
    fn from(tag: &Tag) -> Self {
        use pb::tag::Kind;
        let kind = match tag {
            Tag::Literal(text) => Kind::Literal(text.to_string()),
            Tag::Environment(name, other) => Kind::Environment(header(name, other)),
            Tag::Header(name, other) => Kind::Header(header(name, other)),
            Tag::Format(text) => Kind::Format(text.to_string()),
        };
        Self { kind: Some(kind) }
    }
}

impl From<&MetricOverride> for pb::MetricOverride {
    fn from(change: &MetricOverride) -> Self {
        let number = |metric: &Metric| {
            let place = Metric::ALL.iter().position(|other| other == metric);
            place
                .and_then(|n| i32::try_from(n).ok())
                .unwrap_or_default()
        };
        let label = |(name, value): (&Text, &Option<Text>)| {
            let value = text(value.as_ref());
            (name.to_string(), pb::Label { value })
        };
        Self {
            metrics: change.metrics.iter().map(number).collect(),
            disabled: change.disabled,
            labels: change.labels.iter().map(label).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ambit_model::access::Attachment;
    use ambit_model::service::NamespacedHostname;

    #[test]
    fn nothing_is_lost_on_the_way() {
        let collector = |protocol| Collector {
            service: NamespacedHostname::new("observability", "collector"),
            port: 4317,
            timeout: Duration::from_millis(1500),
            protocol,
            headers: vec![("authorization".into(), "x".into())],
        };
        let log = |format, collector| LogProvider {
            name: "log".into(),
            format,
            collector,
        };
        let json = LogFormat::Json(vec![("b".into(), "1".into()), ("a".into(), "2".into())]);
        let tracing = |context, protocol| Tracing {
            provider: Some(TraceProvider {
                name: "otel".into(),
                collector: collector(protocol),
                context,
                max_tag_length: 256,
            }),
            sampling: Some(10_000),
            no_spans: Some(true),
            no_propagation: Some(false),
            mesh_tags: Some(true),
            by_request_id: None,
            tags: [
                ("a".into(), Tag::Literal("x".into())),
                ("b".into(), Tag::Environment("POD".into(), "-".into())),
                ("c".into(), Tag::Header("x-user".into(), "-".into())),
                ("d".into(), Tag::Format("%PROTOCOL%".into())),
            ]
            .into(),
        };
        let telemetry = Telemetry {
            namespace: "shop".into(),
            name: "all".into(),
            created: 7,
            root: true,
            attachments: vec![Attachment::Gateway("shop".into(), "waypoint".into())],
            logs: vec![
                Logging {
                    providers: vec![
                        log(LogFormat::Text("x".into()), None),
                        log(json, Some(collector(CollectorProtocol::OtlpGrpc))),
                    ],
                    disabled: false,
                    filter: Some("response.code > 400".into()),
                },
                Logging {
                    disabled: true,
                    ..Logging::default()
                },
            ],
            tracing: vec![
                tracing(
                    Context::W3c,
                    CollectorProtocol::OtlpHttp("/v1/traces".into()),
                ),
                tracing(Context::B3, CollectorProtocol::Zipkin("/api".into())),
                tracing(Context::B3AndW3c, CollectorProtocol::OtlpGrpc),
                Tracing::default(),
            ],
            metrics: vec![MetricOverride {
                metrics: Metric::ALL.into(),
                disabled: Some(true),
                labels: [
                    ("a".into(), None),
                    ("b".into(), Some("request.host".into())),
                ]
                .into(),
            }],
        };
        let message = pb::Telemetry::from(&telemetry);
        assert_eq!(Telemetry::try_from(message).unwrap(), telemetry);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let metrics = pb::MetricOverride {
            metrics: vec![99],
            ..pb::MetricOverride::default()
        };
        let telemetry = pb::Telemetry {
            metrics: vec![metrics],
            ..pb::Telemetry::default()
        };
        assert!(Telemetry::try_from(telemetry).is_err());
    }
}
