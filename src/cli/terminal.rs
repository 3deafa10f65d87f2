//! Stdout as people and scripts get it: colours only for people, tables, and a closed pipe that is
//! no error.

use super::Failure;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use std::ffi::OsStr;
use std::io::{IsTerminal, Write};

/// How much something wants attention; its colour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// A peer is down. Red.
    Bad,
    /// A peer is suspected, or unreachable. Yellow.
    Doubtful,
    /// A peer is up, or came back. Green.
    Good,
    /// A peer left or was forgotten. Grey.
    Quiet,
    /// Text without colour.
    Plain,
}

impl Severity {
    /// That of being in a state, as the API words it.
    pub fn of_state(state: &str) -> Severity {
        match state {
            "up" => Severity::Good,
            "suspect" | "unreachable" => Severity::Doubtful,
            "down" => Severity::Bad,
            "left" | "forgotten" => Severity::Quiet,
            _ => Severity::Plain,
        }
    }

    /// That of what a sender says of itself, as the API words it.
    pub fn of_status(status: &str) -> Severity {
        match status {
            "warn" => Severity::Doubtful,
            "critical" => Severity::Bad,
            _ => Severity::Plain,
        }
    }

    /// Its SGR parameters (ECMA-48).
    fn sgr(self) -> Option<&'static str> {
        match self {
            Severity::Bad => Some("1;31"),
            Severity::Doubtful => Some("33"),
            Severity::Good => Some("32"),
            Severity::Quiet => Some("2"),
            Severity::Plain => None,
        }
    }

    fn colour(self) -> Option<comfy_table::Color> {
        match self {
            Severity::Bad => Some(comfy_table::Color::Red),
            Severity::Doubtful => Some(comfy_table::Color::Yellow),
            Severity::Good => Some(comfy_table::Color::Green),
            Severity::Quiet => Some(comfy_table::Color::DarkGrey),
            Severity::Plain => None,
        }
    }
}

/// What stdout is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terminal {
    /// Whether to colour.
    pub colour: bool,
    /// Columns to keep within; `None` for a file or pipe, where nothing is wrapped.
    pub width: Option<u16>,
}

impl Terminal {
    /// A pipe or a file: no colours, no wrapping.
    pub const PLAIN: Terminal = Terminal { colour: false, width: None };

    /// Looks at stdout, at NO_COLOR and at TERM.
    pub fn detect() -> Terminal {
        if !std::io::stdout().is_terminal() {
            return Terminal::PLAIN;
        }
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let colour = colours_allowed(std::env::var_os("NO_COLOR").as_deref()) && !dumb;
        Terminal { colour, width: stdout_columns() }
    }

    /// The text in the colour of its severity.
    pub fn paint(self, severity: Severity, text: &str) -> String {
        match severity.sgr() {
            Some(sgr) if self.colour => format!("\x1b[{sgr}m{text}\x1b[0m"),
            _ => text.to_owned(),
        }
    }

    /// A cell in the colour of its severity.
    pub fn cell(self, severity: Severity, text: &str) -> Cell {
        let cell = Cell::new(text);
        match severity.colour() {
            Some(colour) if self.colour => cell.fg(colour),
            _ => cell,
        }
    }

    /// An empty table: a header, no lines, columns two blanks apart, those named in `right` flush
    /// right.
    pub fn table(self, header: &[&str], right: &[usize]) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).force_no_tty();
        table.set_header(header.iter().map(|text| self.cell(Severity::Quiet, text)));
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        for &index in right {
            if let Some(column) = table.column_mut(index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        if self.colour {
            table.enforce_styling();
        }
        if let Some(width) = self.width {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
        table
    }
}

/// Whether this value of NO_COLOR leaves colours on (<https://no-color.org>: off when it is present and
/// not empty).
pub fn colours_allowed(no_color: Option<&OsStr>) -> bool {
    no_color.is_none_or(OsStr::is_empty)
}

/// Columns of the terminal on stdout (TIOCGWINSZ, tty_ioctl(4)).
fn stdout_columns() -> Option<u16> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize, which `size` is, and keeps no pointer to it.
    let rc = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &mut size) };
    (rc == 0 && size.ws_col > 0).then_some(size.ws_col)
}

/// Writes text and a line end to stdout, at once: a reader of a pipe gets it now.
///
/// # Errors
/// The reader has gone (quietly, see [`Failure::nobody_reads`]), or the disk is full and the like.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
        std::io::ErrorKind::BrokenPipe => Failure::nobody_reads(),
        _ => Failure::failed(format!("cannot write to stdout: {error}")),
    })
}

/// Whether stdout is a pipe, or the like, whose other end is closed; found out without writing to it.
pub fn nobody_reads() -> bool {
    let mut stdout = libc::pollfd { fd: libc::STDOUT_FILENO, events: 0, revents: 0 };
    // SAFETY: one pollfd that is ours, alive through the call, which does not wait.
    let found = unsafe { libc::poll(&mut stdout, 1, 0) };
    // A socket says HUP; what can no longer be written to, and a closed descriptor, the others.
    found > 0 && stdout.revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0
}

/// Writes a message to stderr. Nobody need read it: a closed stderr is no error.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A table as text without the blanks that pad its last column.
pub fn render(table: &Table) -> String {
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// Prints a value as indented JSON.
///
/// # Errors
/// As [`print()`].
pub fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::failed(format!("cannot write JSON: {error}")))?;
    print(&text)
}

/// A value as JSON on one line.
///
/// # Errors
/// It cannot be written so.
pub fn json_line(value: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string(value)
        .map_err(|error| Failure::failed(format!("cannot write JSON: {error}")))
}

/// Has SIGINT end the process with exit code 130 instead of by the signal.
pub fn exit_130_on_interrupt() {
    let always = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    // Every line is flushed as it is written, so nothing is lost by ending on the spot. A failure
    // leaves the default, which ends the process too.
    let _ =
        signal_hook::flag::register_conditional_shutdown(signal_hook::consts::SIGINT, 130, always);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_only_where_asked_for() {
        let colourful = Terminal { colour: true, width: None };
        assert_eq!(colourful.paint(Severity::Bad, "down"), "\x1b[1;31mdown\x1b[0m");
        assert_eq!(colourful.paint(Severity::Plain, "x"), "x");
        assert_eq!(Terminal::PLAIN.paint(Severity::Bad, "down"), "down");
    }

    #[test]
    fn an_empty_no_color_is_none() {
        assert!(colours_allowed(None));
        assert!(colours_allowed(Some(OsStr::new(""))));
        assert!(!colours_allowed(Some(OsStr::new("0"))));
    }

    #[test]
    fn a_table_keeps_within_its_width() {
        let terminal = Terminal { colour: false, width: Some(24) };
        let mut table = terminal.table(&["PEER", "SILENT"], &[1]);
        table.add_row([Cell::new("web-1"), Cell::new("3.05 s")]);
        table.add_row([Cell::new("a name that is far too long"), Cell::new("2m 3s")]);
        let text = render(&table);
        assert!(text.lines().all(|line| line.chars().count() <= 24), "{text}");
        assert!(text.starts_with("PEER "), "{text}");
    }

    #[test]
    fn a_pipe_gets_whole_lines() {
        let mut table = Terminal::PLAIN.table(&["PEER", "SILENT"], &[1]);
        table.add_row([Cell::new("web-1"), Cell::new("3.05 s")]);
        table.add_row([Cell::new("x".repeat(200)), Cell::new("2m 3s")]);
        let text = render(&table);
        assert_eq!(text.lines().count(), 3, "{text}");
    }
}
