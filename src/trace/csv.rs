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
//! CRLF, blank lines, blanks around a value, a byte order mark, no line end at the end. Two more
//! columns are understood: `incarnation`, the sender's start, and `interval_ns`. An empty value of
//! `sent_ns`, `incarnation` or `interval_ns` is "not stated". Lines need not be in the order of
//! arrival.

use super::{Arrival, PeerTrace, Trace};
use crate::wire;
use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};

/// Why a CSV is none that we understand. Each message names the line.
#[derive(Debug, thiserror::Error)]
pub enum CsvError {
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

/// Where the columns are.
struct Columns {
    peer: usize,
    seq: usize,
    arrived: usize,
    sent: Option<usize>,
    incarnation: Option<usize>,
    interval: Option<usize>,
    count: usize,
}

impl Columns {
    fn of(header: &[Cow<'_, [u8]>], line: u64) -> Result<Columns, CsvError> {
        let find = |name: &str| {
            header.iter().position(|field| field.eq_ignore_ascii_case(name.as_bytes()))
        };
        let need = |column| find(column).ok_or(CsvError::Column { line, column });
        Ok(Columns {
            peer: need("peer")?,
            seq: need("seq")?,
            arrived: need("arrived_ns")?,
            sent: find("sent_ns"),
            incarnation: find("incarnation"),
            interval: find("interval_ns"),
            count: header.len(),
        })
    }
}

/// Reads a trace.
///
/// # Errors
/// The first line that is wrong, and how.
pub fn read(input: impl Read) -> Result<Trace, CsvError> {
    let mut input = BufReader::with_capacity(1 << 18, input);
    let mut places: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut trace = Trace::default();
    let mut columns: Option<Columns> = None;
    let (mut text, mut line) = (Vec::new(), 0);
    // The peer of the line before: one peer's lines often come together.
    let mut latest = 0;
    while {
        text.clear();
        input.by_ref().take(MAX_LINE + 1).read_until(b'\n', &mut text)? > 0
    } {
        line += 1;
        if text.len() as u64 > MAX_LINE {
            return Err(CsvError::Long { line });
        }
        let row = text.trim_ascii();
        let row = row.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(row);
        if row.is_empty() {
            continue;
        }
        let mut fields: [Cow<'_, [u8]>; MAX_COLUMNS] = [const { Cow::Borrowed(&[]) }; MAX_COLUMNS];
        let found = split(row, &mut fields).ok_or(CsvError::Quote { line })?;
        let Some(columns) = &columns else {
            columns = Some(Columns::of(&fields[..found], line)?);
            continue;
        };
        if found != columns.count {
            return Err(CsvError::Values { line, found, expected: columns.count });
        }
        let number = |place: usize, column: &'static str| {
            parse(&fields[place]).ok_or_else(|| CsvError::Number {
                line,
                column,
                value: String::from_utf8_lossy(&fields[place]).into_owned(),
            })
        };
        let stated = |place: Option<usize>, column| match place {
            Some(place) if !fields[place].is_empty() => number(place, column),
            _ => Ok(0),
        };
        let arrival = Arrival {
            arrived_ns: number(columns.arrived, "arrived_ns")?,
            sent_ns: stated(columns.sent, "sent_ns")?,
            // Serial numbers, as on the wire.
            sequence: number(columns.seq, "seq")? as u32,
            incarnation: stated(columns.incarnation, "incarnation")? as u32,
            interval: wire::encode_interval(
                stated(columns.interval, "interval_ns")?.div_ceil(1_000),
            ),
            ..Arrival::default()
        };
        let name = &*fields[columns.peer];
        if name.is_empty() {
            return Err(CsvError::Nobody { line });
        }
        let is_latest = |peer: &PeerTrace| peer.name.as_bytes() == name;
        if !trace.peers.get(latest).is_some_and(is_latest) {
            latest = *places.entry(name.to_vec()).or_insert_with(|| {
                let name = String::from_utf8_lossy(name).into_owned();
                trace.peers.push(PeerTrace { name, arrivals: Vec::new() });
                trace.peers.len() - 1
            });
        }
        trace.peers[latest].arrivals.push(arrival);
    }
    if columns.is_none() {
        return Err(CsvError::Column { line: line.max(1), column: "peer" });
    }
    trace.sort();
    Ok(trace)
}

/// Bytes of the longest line.
const MAX_LINE: u64 = 65_536;
/// Columns that are looked at; what is beyond is passed over.
const MAX_COLUMNS: usize = 16;

/// Splits a line at its commas, without the blanks around values. `None` when a quote is not closed.
fn split<'a>(row: &'a [u8], fields: &mut [Cow<'a, [u8]>; MAX_COLUMNS]) -> Option<usize> {
    let (mut rest, mut found) = (row, 0);
    loop {
        rest = rest.trim_ascii_start();
        let (field, after) = match rest.strip_prefix(b"\"") {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = rest.iter().position(|byte| *byte == b',').unwrap_or(rest.len());
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
        let end = rest.iter().position(|byte| *byte == b'"')?;
        value.extend_from_slice(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix(b"\"") {
            Some(after) => {
                value.push(b'"');
                rest = after;
            }
            None => {
                let comma = rest.iter().position(|byte| *byte == b',').unwrap_or(rest.len());
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
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<(String, Vec<(u32, u64)>)> {
        let trace = read(text.as_bytes()).unwrap();
        let of = |peer: PeerTrace| {
            let beats = peer.arrivals.iter().map(|a| (a.sequence, a.arrived_ns)).collect();
            (peer.name, beats)
        };
        trace.peers.into_iter().map(of).collect()
    }

    #[test]
    fn peers_may_be_interleaved_and_late_lines_come_late() {
        let text = "peer,seq,sent_ns,arrived_ns\na,1,10,20\nb,7,11,21\na,3,30,41\na,2,20,40\n";
        let expected = [("a".into(), vec![(1, 20), (2, 40), (3, 41)]), ("b".into(), vec![(7, 21)])];
        assert_eq!(names(text), expected);
    }

    #[test]
    fn any_dialect_is_the_same_trace() {
        let plain = "peer,seq,sent_ns,arrived_ns\na,1,10,20\n\"b, too\",4,0,25\n";
        let variants = [
            "\u{FEFF}peer,seq,sent_ns,arrived_ns\r\na,1,10,20\r\n\r\n\"b, too\",4,0,25\r\n",
            "\n\narrived_ns,note,peer,seq,sent_ns\n20,x,a,1,10\n   \n25,,\"b, too\",4,",
            "seq,arrived_ns,peer,sent_ns\n1,20,\"a\",10\n4,25,\"b, too\" ,0",
            " Peer , seq,sent_ns , arrived_ns\n a ,1, 10, 20\n\"b, too\", 4,,25 \n",
        ];
        for variant in variants {
            assert_eq!(read(variant.as_bytes()).unwrap(), read(plain.as_bytes()).unwrap());
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let cases = [
            ("", "line 1: no column `peer`"),
            ("a,b\n", "line 1: no column `peer`"),
            ("\npeer,seq\na,1\n", "line 2: no column `arrived_ns`"),
            ("peer,seq,arrived_ns\na,1,20\na,x,30\n", "line 3: `x` in column seq"),
            ("peer,seq,arrived_ns\r\n\r\na,1,\r\n", "line 3: `` in column arrived_ns"),
            ("peer,seq,arrived_ns\na,-1,30\n", "line 2: `-1` in column seq"),
            ("peer,seq,arrived_ns\na,1,18446744073709551616\n", "line 2: `18446744073709551616`"),
            ("peer,seq,arrived_ns\na,1\n", "line 2: has 2 values, the header 3"),
            ("peer,seq,arrived_ns\r\n\"a,1,5\r\n", "line 2: a quote"),
            ("peer,seq,arrived_ns\n,1,5\n", "line 2: the column peer is empty"),
        ];
        for (text, expected) in cases {
            let error = read(text.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn incarnation_and_interval_are_taken_where_they_are_given() {
        let text = "peer,seq,arrived_ns,incarnation,interval_ns\na,1,20,3,250000001\na,2,21,,\n";
        let trace = read(text.as_bytes()).unwrap();
        let [first, second] = trace.peers[0].arrivals[..] else { panic!("two lines") };
        assert_eq!((first.incarnation, first.interval), (3, 250_001));
        assert_eq!((second.incarnation, second.interval), (0, 0));
    }
}
