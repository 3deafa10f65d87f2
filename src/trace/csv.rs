//! Traces as CSV (RFC 4180): a header that names at least `peer`, `seq` and `arrived_ns`, and a
//! heartbeat a line.
//!
//! ```text
//!  peer,seq,sent_ns,arrived_ns
//!  web-1,17,1700000000000000000,1700000000000412345
//! ```
//!
//! A name has no line ends in it, so a line is a record, and each complaint knows its line.
//!
//! Liberal in what it takes: columns in any order and others beside them, several peers interleaved,
//! CRLF, blank lines, blanks around a value, a byte order mark, no line end at the end (which is told). Two more
//! columns are understood: `incarnation`, the sender's start, and `interval_ns`. An empty value of
//! `sent_ns`, `incarnation` or `interval_ns` is "not stated". Lines need not be in the order of
//! arrival.

mod fast;
mod names;

use super::{Arrival, Gatherer, Losses, Sink, Trace, id_of, is_avx2_there};
use crate::wire;
use fast::{Digits, Ends, Fields, Name};
use names::Names;
use std::borrow::Cow;
use std::io::{BufRead, BufReader, Read};

/// Why a CSV is none that we understand. Each message names the line.
#[derive(Debug, thiserror::Error)]
pub enum CsvError {
    /// There is no line in it.
    #[error("there is nothing in it")]
    Empty,
    /// The last line is wrong, and has no line end.
    #[error("{cause}; it is the last line and has no line end: the file may be cut off")]
    Unended {
        /// What is wrong.
        cause: Box<CsvError>,
    },
    /// A column is missing.
    #[error(
        "line {line}: no column `{column}`; the header must name peer, seq and arrived_ns, as in \
         peer,seq,sent_ns,arrived_ns"
    )]
    Column {
        /// Where the header is.
        line: u64,
        /// The column.
        column: &'static str,
    },
    /// A value is missing or no number.
    #[error("line {line}: `{value}` in column {column} is no whole number from 0 to 2^64 − 1")]
    Number {
        /// Where.
        line: u64,
        /// The column.
        column: &'static str,
        /// What is there.
        value: String,
    },
    /// A number has more than 32 bits.
    #[error(
        "line {line}: {value} in column {column} is above 4294967295: such numbers have 32 bits, and one \
         that grows beyond begins again at 0"
    )]
    Wide {
        /// Where.
        line: u64,
        /// The column.
        column: &'static str,
        /// What is there.
        value: u64,
    },
    /// A line without a peer.
    #[error("line {line}: the column peer is empty")]
    Nobody {
        /// Where.
        line: u64,
    },
    /// A line is longer than any of a trace.
    #[error("line {line}: longer than {MAX_LINE} bytes, so this is no trace")]
    Long {
        /// Where.
        line: u64,
    },
    /// A line has not as many values as the header.
    #[error("line {line}: has {found} values, the header {expected}")]
    Values {
        /// Where.
        line: u64,
        /// Values found.
        found: usize,
        /// Columns of the header.
        expected: usize,
    },
    /// A quoted value does not end.
    #[error("line {line}: a quote is opened and not closed")]
    Quote {
        /// Where.
        line: u64,
    },
    /// It cannot be read.
    #[error("{0}")]
    Read(#[from] std::io::Error),
}

/// Where the columns are that we understand.
#[derive(Clone, PartialEq)]
struct Columns {
    /// How many there are, the others too.
    count: usize,
    /// In the order of [`KNOWN`](Self::KNOWN). The first three are there.
    places: [Option<usize>; 6],
    /// Where the others are.
    others: Vec<usize>,
}

impl Columns {
    /// Those of the header that everybody writes. As they are known beforehand, their lines are read by
    /// code of their own.
    const USUAL: Columns = Columns {
        count: 4,
        places: [Some(0), Some(1), Some(3), Some(2), None, None],
        others: Vec::new(),
    };

    const KNOWN: [&str; 6] = ["peer", "seq", "arrived_ns", "sent_ns", "incarnation", "interval_ns"];

    fn of(header: &[Cow<'_, [u8]>], line: u64) -> Result<Columns, CsvError> {
        let place = |column: &str| {
            header.iter().position(|field| field.eq_ignore_ascii_case(column.as_bytes()))
        };
        let places = Columns::KNOWN.map(place);
        if let Some(missing) = places[..3].iter().position(Option::is_none) {
            return Err(CsvError::Column { line, column: Columns::KNOWN[missing] });
        }
        let others = (0..header.len()).filter(|place| !places.contains(&Some(*place))).collect();
        Ok(Columns { count: header.len(), places, others })
    }
}

/// Reads a trace.
///
/// # Errors
/// The first line that is wrong, and how.
pub fn read(input: impl Read) -> Result<Trace, CsvError> {
    let mut trace = Trace::default();
    trace.losses = read_into(BufReader::with_capacity(1 << 18, input), &mut trace)?;
    trace.sort();
    Ok(trace)
}

/// Hands the lines of a trace to `sink`, in their order, until it wants no more. Memory: the peers'
/// names, and a line that goes past the end of the reader's buffer.
///
/// # Errors
/// The first line that is wrong, and how.
pub fn read_into(mut input: impl BufRead, sink: &mut impl Sink) -> Result<Losses, CsvError> {
    let mut losses = Losses::default();
    let gatherer = Gatherer::new(sink);
    let mut lines = Lines { columns: None, names: Names::new(), line: 0, gatherer };
    // The beginning of a line whose end is not in the buffer.
    let mut torn: Vec<u8> = Vec::new();
    while !lines.gatherer.stopped {
        let buffer = input.fill_buf()?;
        let len = buffer.len();
        if len == 0 {
            if !torn.trim_ascii().is_empty() {
                losses.unended_lines = lines.columns.is_some().into();
                lines.any(&torn).map_err(|cause| CsvError::Unended { cause: Box::new(cause) })?;
            }
            break;
        }
        let mut rest = buffer;
        if !torn.is_empty() {
            let end = find(b'\n', rest).map_or(len, |at| at + 1);
            torn.extend_from_slice(&rest[..end]);
            rest = &rest[end..];
            if torn.ends_with(b"\n") {
                lines.any(&torn)?;
                torn.clear();
            }
        }
        let rest = lines.whole(rest)?;
        if lines.gatherer.stopped {
            break;
        }
        torn.extend_from_slice(rest);
        if torn.len() > MAX_LINE {
            return Err(CsvError::Long { line: lines.line + 1 });
        }
        input.consume(len);
    }
    lines.gatherer.hand_on();
    if lines.columns.is_none() {
        return Err(CsvError::Empty);
    }
    Ok(losses)
}

/// Goes through the lines.
struct Lines<'a, S> {
    columns: Option<Columns>,
    names: Names,
    /// Lines so far.
    line: u64,
    gatherer: Gatherer<'a, S>,
}

impl<S: Sink> Lines<'_, S> {
    /// Takes in all whole lines of a text, and gives what is left.
    fn whole<'t>(&mut self, text: &'t [u8]) -> Result<&'t [u8], CsvError> {
        #[cfg(target_arch = "x86_64")]
        if fast::is_avx512_there() {
            // SAFETY: the processor has what it is compiled for, as was just asked.
            return unsafe { self.whole_by_avx512(text) };
        }
        #[cfg(target_arch = "x86_64")]
        if is_avx2_there() {
            // SAFETY: as above.
            return unsafe { self.whole_by_avx2(text) };
        }
        self.whole_by::<fast::Plain, fast::Plain>(text)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
    fn whole_by_avx2<'t>(&mut self, text: &'t [u8]) -> Result<&'t [u8], CsvError> {
        self.whole_by::<fast::Avx2, fast::Avx2>(text)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt,avx512f,avx512bw,avx512vbmi2")]
    fn whole_by_avx512<'t>(&mut self, text: &'t [u8]) -> Result<&'t [u8], CsvError> {
        self.whole_by::<fast::Avx512, fast::Avx2>(text)
    }

    #[inline(always)]
    fn whole_by<'t, E: Ends, D: Digits>(
        &mut self,
        mut text: &'t [u8],
    ) -> Result<&'t [u8], CsvError> {
        let mut ends = Vec::new();
        while !self.gatherer.stopped {
            let mut fields = Fields::find::<E>(text, &mut ends);
            self.lines::<D>(&mut fields)?;
            text = match fields.passed() {
                // Not even a line.
                0 => {
                    let Some(end) = find(b'\n', text) else { break };
                    self.any(&text[..=end])?;
                    &text[end + 1..]
                }
                passed => &text[passed..],
            };
        }
        Ok(text)
    }

    /// Takes in all whole lines.
    #[inline(always)]
    fn lines<D: Digits>(&mut self, fields: &mut Fields<'_>) -> Result<(), CsvError> {
        while !self.gatherer.stopped {
            if let Some(columns) = self.columns.take() {
                match columns == Columns::USUAL {
                    true => self.usual::<D>(fields, &Columns::USUAL),
                    false => self.usual::<D>(fields, &columns),
                }
                self.columns = Some(columns);
            }
            let Some(line) = fields.any() else { break };
            self.any(line)?;
        }
        Ok(())
    }

    /// Takes in lines as long as they are as most are.
    #[inline(always)]
    fn usual<D: Digits>(&mut self, fields: &mut Fields<'_>, columns: &Columns) {
        let mut lines = 0;
        while !self.gatherer.stopped
            && let Some((name, arrival)) = fields.usual::<D>(columns)
        {
            self.add(&name, arrival);
            lines += 1;
        }
        self.line += lines;
    }

    /// Takes in a line, whatever is in it.
    fn any(&mut self, text: &[u8]) -> Result<(), CsvError> {
        self.line += 1;
        let line = self.line;
        if text.len() > MAX_LINE {
            return Err(CsvError::Long { line });
        }
        let text = text.trim_ascii();
        let text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
        if text.is_empty() {
            return Ok(());
        }
        let mut fields: [Cow<'_, [u8]>; MAX_COLUMNS] = [const { Cow::Borrowed(&[]) }; MAX_COLUMNS];
        let found = split(text, &mut fields).ok_or(CsvError::Quote { line })?;
        match &self.columns {
            None => self.columns = Some(Columns::of(&fields[..found], line)?),
            Some(columns) => {
                let (name, arrival) = columns.row(&fields[..found], line)?;
                self.add(&Name::of(&name), arrival);
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn add(&mut self, name: &Name<'_>, arrival: Arrival) {
        let (peer, is_new) = self.names.number(name);
        if is_new {
            self.introduce(name.whole);
        }
        self.gatherer.push(peer, arrival);
    }

    #[cold]
    fn introduce(&mut self, name: &[u8]) {
        let name = String::from_utf8_lossy(name).into_owned();
        self.gatherer.sink.peer(id_of(&name), name);
    }
}

impl Columns {
    /// What the fields of a line say.
    fn row<'a>(
        &self,
        fields: &[Cow<'a, [u8]>],
        line: u64,
    ) -> Result<(Cow<'a, [u8]>, Arrival), CsvError> {
        if fields.len() != self.count {
            return Err(CsvError::Values { line, found: fields.len(), expected: self.count });
        }
        let number = |place: usize| {
            let column = Columns::KNOWN[place];
            let Some(at) = self.places[place] else { return Ok(0) };
            if place >= 3 && fields[at].is_empty() {
                return Ok(0);
            }
            parse(&fields[at]).ok_or_else(|| CsvError::Number {
                line,
                column,
                value: String::from_utf8_lossy(&fields[at]).into_owned(),
            })
        };
        let narrow = |place: usize| {
            let (value, column) = (number(place)?, Columns::KNOWN[place]);
            u32::try_from(value).map_err(|_| CsvError::Wide { line, column, value })
        };
        let arrival = Arrival {
            arrived_ns: number(2)?,
            sent_ns: number(3)?,
            sequence: narrow(1)?,
            incarnation: narrow(4)?,
            interval: stated_interval(number(5)?),
            ..Arrival::default()
        };
        let name = self.places[0].map_or(Cow::Borrowed(&[][..]), |at| fields[at].clone());
        if name.is_empty() {
            return Err(CsvError::Nobody { line });
        }
        Ok((name, arrival))
    }
}

/// The code of an interval; 0 is "not stated".
fn stated_interval(ns: u64) -> u32 {
    wire::encode_interval(ns.div_ceil(1_000))
}

fn find(byte: u8, text: &[u8]) -> Option<usize> {
    text.iter().position(|own| *own == byte)
}

/// Bytes of the longest line.
const MAX_LINE: usize = 65_536;
/// Columns that are looked at; what is beyond is passed over. A power of two.
const MAX_COLUMNS: usize = 16;

/// Splits a line at its commas, without the blanks around values. `None` when a quote is not closed.
fn split<'a>(row: &'a [u8], fields: &mut [Cow<'a, [u8]>; MAX_COLUMNS]) -> Option<usize> {
    let (mut rest, mut found) = (row, 0);
    loop {
        rest = rest.trim_ascii_start();
        let (field, after) = match rest.strip_prefix(b"\"") {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = find(b',', rest).unwrap_or(rest.len());
                let (field, after) = rest.split_at(end);
                (Cow::Borrowed(field.trim_ascii_end()), after)
            }
        };
        if let Some(place) = fields.get_mut(found) {
            *place = field;
            found += 1;
        }
        match after.split_first() {
            Some((_, after)) => rest = after,
            None => return Some(found),
        }
    }
}

/// The value up to its closing quote, in which two quotes stand for one, and what follows from the
/// next comma on.
fn unquote(quoted: &[u8]) -> Option<(Cow<'_, [u8]>, &[u8])> {
    let mut value = Vec::new();
    let mut rest = quoted;
    loop {
        let end = find(b'"', rest)?;
        value.extend_from_slice(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix(b"\"") {
            Some(after) => {
                value.push(b'"');
                rest = after;
            }
            None => {
                let comma = find(b',', rest).unwrap_or(rest.len());
                return Some((Cow::Owned(value), &rest[comma..]));
            }
        }
    }
}

/// A whole number.
#[inline]
fn parse(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests;
