//! What is for developers: on standard error, in lines that look like all others of ours, as
//! much as `KTHINLTO_LOG` asks for. Must not know what is logged.

use std::fmt;
use std::io;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::error::Error;
use crate::report::plain::plain;

const VARIABLE: &str = "KTHINLTO_LOG";

/// Starts logging. Fails where the variable's value is none of the levels.
pub fn start() -> Result<(), Error> {
    let level = level(&std::env::var(VARIABLE).unwrap_or_default())?;
    let log = tracing_subscriber::fmt().event_format(Plain).with_writer(io::stderr);
    log.with_max_level(level).init();
    Ok(())
}

/// An empty variable is an unset one, as in make.
fn level(asked: &str) -> Result<LevelFilter, Error> {
    if asked.is_empty() {
        return Ok(LevelFilter::WARN);
    }
    asked.parse().map_err(|_| {
        Error::Usage(format!(
            "{VARIABLE} is `{asked}`, which is not a level; use off, error, warn, info, debug or \
             trace"
        ))
    })
}

/// `kthinlto: LEVEL: TEXT`.
struct Plain;

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut to: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        // What crates have to say of a connection may hold what is sent over it.
        if !event.metadata().target().starts_with("kthinlto") {
            return Ok(());
        }
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "note",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        write!(to, "kthinlto: {level}: ")?;
        let mut text = String::new();
        context.field_format().format_fields(Writer::new(&mut text), event)?;
        writeln!(to, "{}", plain(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_one_of_six() {
        assert_eq!(level("").unwrap(), LevelFilter::WARN);
        assert_eq!(level("off").unwrap(), LevelFilter::OFF);
        assert_eq!(level("trace").unwrap(), LevelFilter::TRACE);
        assert_eq!(level("DEBUG").unwrap(), LevelFilter::DEBUG);
        let error = level("debgu").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().starts_with("KTHINLTO_LOG is `debgu`, "), "{error}");
    }
}
