//! From `tracing` events and spans to lines.

use std::fmt::{self, Debug, Write};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::directives::shown;
use super::line::{Writer, json_text, plain_display};
use super::sink::Sink;
use super::{Format, STATE};

/// Formats what the directives in force let through.
pub(super) struct IstioLayer {
    format: Format,
    sink: Sink,
}

impl IstioLayer {
    pub(super) fn new(format: Format, sink: Sink) -> Self {
        Self { format, sink }
    }
}

/// The fields of a span, formatted once, when it is made.
#[derive(Default)]
struct SpanText {
    fields: Vec<u8>,
}

impl<S> Layer<S> for IstioLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if STATE.current.load().enables(metadata) {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        STATE.current.load().enables(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(STATE.current.load().max_level())
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut text = SpanText::default();
        attributes.record(&mut SpanFields {
            format: self.format,
            text: &mut text,
        });
        span.extensions_mut().insert(text);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut extensions = span.extensions_mut();
        if let Some(text) = extensions.get_mut::<SpanText>() {
            values.record(&mut SpanFields {
                format: self.format,
                text,
            });
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        let target = metadata.target();
        let mut writer = Writer::start(self.format, *metadata.level(), shown(target), target);
        if self.format == Format::Plain {
            writer.spans(&plain_spans(event, &context));
        }
        event.record(&mut Message(&mut writer));
        event.record(&mut Fields(&mut writer));
        if self.format == Format::Json {
            json_spans(&mut writer, event, &context);
        }
        writer.finish(&self.sink);
    }
}

fn plain_spans<S>(event: &Event<'_>, context: &Context<'_, S>) -> String
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let mut text = String::new();
    for span in context
        .event_scope(event)
        .into_iter()
        .flat_map(|scope| scope.from_root())
    {
        let extensions = span.extensions();
        let fields = extensions
            .get::<SpanText>()
            .map_or(&[][..], |text| &text.fields);
        let _ = write!(
            text,
            ":{}{{{}}}",
            span.name(),
            String::from_utf8_lossy(fields)
        );
    }
    text
}

fn json_spans<S>(writer: &mut Writer, event: &Event<'_>, context: &Context<'_, S>)
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    for span in context
        .event_scope(event)
        .into_iter()
        .flat_map(|scope| scope.from_root())
    {
        let extensions = span.extensions();
        let fields = extensions
            .get::<SpanText>()
            .map_or(&[][..], |text| &text.fields);
        writer.bare(
            span.name(),
            &format_args!("{{{}}}", String::from_utf8_lossy(fields)),
        );
    }
}

/// The field that `tracing` calls `message`.
struct Message<'a>(&'a mut Writer);

impl Visit for Message<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0.message(&format_args!("{value:?}"));
        }
    }
}

/// All other fields.
struct Fields<'a>(&'a mut Writer);

impl Visit for Fields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.bare(field.name(), &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.bare(field.name(), &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.bare(field.name(), &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.bare(field.name(), &value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.text(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() != "message" {
            self.0.display(field.name(), &format_args!("{value:?}"));
        }
    }
}

/// The fields of a span, in the text that both formats need.
struct SpanFields<'a> {
    format: Format,
    text: &'a mut SpanText,
}

impl SpanFields<'_> {
    fn put(&mut self, field: &Field, quoted: bool, value: fmt::Arguments<'_>) {
        let buffer = &mut self.text.fields;
        match self.format {
            Format::Plain => {
                if !buffer.is_empty() {
                    buffer.push(b' ');
                }
                buffer.extend_from_slice(field.name().as_bytes());
                buffer.push(b'=');
                plain_display(buffer, &value);
            }
            Format::Json => {
                if !buffer.is_empty() {
                    buffer.push(b',');
                }
                json_text(buffer, field.name());
                buffer.push(b':');
                if quoted {
                    json_text(buffer, &value.to_string());
                } else {
                    buffer.extend_from_slice(value.to_string().as_bytes());
                }
            }
        }
    }
}

impl Visit for SpanFields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, false, format_args!("{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, false, format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, false, format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, false, format_args!("{value}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match self.format {
            Format::Plain => self.put(field, false, format_args!("{value:?}")),
            Format::Json => self.put(field, true, format_args!("{value}")),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, true, format_args!("{value:?}"));
    }
}
