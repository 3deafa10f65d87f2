//! Tests of reading CSV: dialects, complaints, and the fast way against the careful one.

use super::super::PeerTrace;
use super::*;
use crate::testing::{Rng, seeds};

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
        let peers = |text: &str| read(text.as_bytes()).unwrap().peers;
        assert_eq!(peers(variant), peers(plain));
    }
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    let cases = [
        ("", "there is nothing in it"),
        ("\n  \r\n", "there is nothing in it"),
        ("a,b\n", "line 1: no column `peer`"),
        ("\npeer,seq\na,1\n", "line 2: no column `arrived_ns`"),
        ("peer,seq,arrived_ns\na,1,20\na,x,30\n", "line 3: `x` in column seq"),
        ("peer,seq,arrived_ns\r\n\r\na,1,\r\n", "line 3: `` in column arrived_ns"),
        ("peer,seq,arrived_ns\na,-1,30\n", "line 2: `-1` in column seq"),
        ("peer,seq,arrived_ns\na,1,18446744073709551616\n", "line 2: `18446744073709551616`"),
        ("peer,seq,arrived_ns\na,1\n", "line 2: has 2 values, the header 3"),
        ("peer,seq,arrived_ns\r\n\"a,1,5\r\n", "line 2: a quote"),
        ("peer,seq,arrived_ns\n,1,5\n", "line 2: the column peer is empty"),
        (
            "peer,seq,arrived_ns\na,4294967295,5\na,4294967296,6\n",
            "line 3: 4294967296 in column seq",
        ),
        (
            "peer,seq,arrived_ns,incarnation\na,1,5,99999999999\n",
            "line 2: 99999999999 in column inc",
        ),
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

/// The second line of a text, if the fast way takes it, and then to its end.
fn usual<E: Ends, D: Digits>(text: &[u8], columns: &Columns) -> Option<(Vec<u8>, Arrival)> {
    let mut ends = Vec::new();
    let mut fields = Fields::find::<E>(text, &mut ends);
    fields.any();
    let (name, arrival) = fields.usual::<D>(columns)?;
    assert_eq!(fields.passed(), text.len());
    assert_eq!(name.last, Name::of(name.whole).last);
    Some((name.whole.to_vec(), arrival))
}

#[test]
fn the_fast_way_finds_what_the_careful_one_does() {
    const PIECES: [&str; 24] = [
        "a",
        "web-1",
        "a-long-name.of.some.host",
        "\u{FEFF}",
        "é",
        "\"",
        "\"a\"",
        " ",
        "\t",
        "\r",
        ",",
        ",",
        ",",
        "0",
        "7",
        "42",
        "00",
        "12345678",
        "123456789",
        "4294967296",
        "1700000000000000000",
        "18446744073709551615",
        "99999999999999999999",
        "-",
    ];
    let headers = [
        "peer,seq,sent_ns,arrived_ns",
        "seq,arrived_ns,peer",
        "note,peer,seq,arrived_ns,incarnation,interval_ns",
    ];
    let mut quick = 0;
    for seed in seeds() {
        let mut rng = Rng::new(seed);
        for header in headers {
            let fields: Vec<_> = header.split(',').map(|f| Cow::Borrowed(f.as_bytes())).collect();
            let columns = Columns::of(&fields, 1).unwrap();
            for _ in 0..4_000 {
                // Mostly a line as it should be, with something put in somewhere.
                let mut line: String = fields.iter().map(|_| ",").skip(1).collect();
                for place in (0..=line.len()).rev() {
                    let pool = if rng.one_in(8) { 0..24 } else { 13..21 };
                    let pick = pool.start + rng.below(pool.len() as u64) as usize;
                    line.insert_str(place, PIECES[pick]);
                }
                let text = format!("a header, of which only the length counts\n{line}\n");
                let found = usual::<fast::Plain, fast::Plain>(text.as_bytes(), &columns);
                #[cfg(target_arch = "x86_64")]
                if is_avx2_there() {
                    let too = usual::<fast::Avx2, fast::Avx2>(text.as_bytes(), &columns);
                    assert_eq!(too, found, "seed {seed}: {line:?}");
                }
                let Some(row) = found else { continue };
                quick += 1;
                let mut fields = [const { Cow::Borrowed(&[] as &[u8]) }; MAX_COLUMNS];
                let found = split(line.trim_ascii().as_bytes(), &mut fields).unwrap();
                let (name, arrival) = columns.row(&fields[..found], 1).unwrap();
                assert_eq!(row, (name.into_owned(), arrival), "seed {seed}: {line:?}");
            }
        }
    }
    assert!(quick > 1_000, "only {quick} lines went the fast way");
}

#[test]
fn where_the_buffer_ends_makes_no_difference() {
    let text = "peer,seq,arrived_ns\r\nweb-1,1,1700000000000000000\n\n\"b\",4,25\nweb-1,2,26";
    let whole = read(text.as_bytes()).unwrap();
    assert_eq!(whole.arrivals(), 3);
    for capacity in 1..text.len() + 1 {
        let mut trace = Trace::default();
        let buffered = BufReader::with_capacity(capacity, text.as_bytes());
        trace.losses = read_into(buffered, &mut trace).unwrap();
        trace.sort();
        assert_eq!(trace, whole, "a buffer of {capacity}");
    }
}

#[test]
fn a_last_line_without_end_may_be_cut_off_and_is_known() {
    let header = "peer,seq,arrived_ns";
    for (rows, unended) in [("", 0), ("\na,1,20\n", 0), ("\na,1,20", 1), ("\na,1,20\n  ", 0)] {
        let trace = read(format!("{header}{rows}").as_bytes()).unwrap();
        assert_eq!(trace.losses.unended_lines, unended, "{rows:?}");
    }
    let error = read(format!("{header}\na,1").as_bytes()).unwrap_err().to_string();
    assert!(error.starts_with("line 2: has 2 values, the header 3; it is the last"), "{error}");
}

#[test]
fn a_line_without_end_is_refused_before_it_is_held() {
    let error = read(std::io::repeat(b'x')).unwrap_err();
    assert!(matches!(error, CsvError::Long { line: 1 }), "{error}");
}
