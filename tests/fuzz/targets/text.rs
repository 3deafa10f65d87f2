//! The text form alone, held against rules that a parser of its own would repeat.

#![no_main]

use systole::wire::{Form, PeerId};

libfuzzer_sys::fuzz_target!(|datagram: &[u8]| {
    if datagram.first().is_none_or(|first| (0x80..0xC2).contains(first)) {
        return;
    }
    let (Ok(form), Ok(text)) = (systole_fuzz::check(datagram), str::from_utf8(datagram)) else {
        return;
    };
    let mut words = text.split([' ', '\t', '\r', '\n']).filter(|word| !word.is_empty());
    let name = words.next().expect("what decodes has a name");
    let (heartbeat, labels) = match form {
        Form::Hello(heartbeat, profile) => (heartbeat, Some(profile.labels().count())),
        Form::Beat(heartbeat) => (heartbeat, None),
        other => panic!("text became {other:?}"),
    };
    assert_eq!(heartbeat.peer, PeerId::of(name));
    let rest: Vec<&str> = words.collect();
    assert_eq!(rest.contains(&"bye"), labels.is_none());
    if let Some(labels) = labels {
        let reserved = ["interval=", "status=", "group="];
        // A tag is a word without `=`.
        let is_label = |word: &&&str| {
            word.contains('=') && !reserved.iter().any(|prefix| word.starts_with(prefix))
        };
        assert_eq!(rest.iter().filter(is_label).count(), labels);
    }
});
