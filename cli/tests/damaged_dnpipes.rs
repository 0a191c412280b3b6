//! Dnpipes of which the disk lost something.

mod process;

use std::fs;

use process::{Folder, dnpipes, folder, sidestream, text};
use sidestream_client::{Batch, Record, blocking::Client};

const SERVED: &str = "
kind: Dnpipe
metadata: {name: orders}
spec: {partitions: 2}
---
kind: Dnpipe
metadata: {name: notes}
spec: {}
---
kind: Dnpipe
metadata: {name: sound}
spec: {}
";

/// Pushes a batch of its own.
fn push(folder: &Folder, dnpipe: &str, partition: u32, values: &[&str]) {
    let client = Client::local(folder.path("data").join("sidestream.sock")).unwrap();
    let records = values.iter().map(|value| Record::new(value.to_string())).collect();
    client.push_together(dnpipe, partition, &Batch { records, ..Batch::default() }).unwrap();
}

/// Flips a bit of each of these values where they are stored, once.
fn flip(folder: &Folder, values: &[&str]) {
    damage(folder, values, |bytes, place| bytes[place] ^= 1);
}

/// Does something to the bytes of a segment at the place of each of these values.
fn damage(folder: &Folder, values: &[&str], harm: impl Fn(&mut [u8], usize)) {
    let (mut left, journal) = (values.to_vec(), folder.path("data").join("journal"));
    for entry in fs::read_dir(journal).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "segment") {
            continue;
        }
        let mut bytes = fs::read(&path).unwrap();
        left.retain(|value| {
            let place = bytes.windows(value.len()).position(|window| window == value.as_bytes());
            place.inspect(|place| harm(&mut bytes, *place)).is_none()
        });
        fs::write(&path, bytes).unwrap();
    }
    assert!(left.is_empty(), "{left:?} are in no segment");
}

/// The exit status of a verb, and what it printed and said.
fn ask(folder: &Folder, arguments: &[&str]) -> (Option<i32>, String, String) {
    let data = dnpipes::data(folder);
    let output = sidestream(&[arguments, &["--data-dir", &data, "--patience", "60s"]].concat());
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn damage_is_told_by_dnpipe_partition_and_range_and_what_is_behind_it_is_there() {
    let folder = folder();
    let mut running = dnpipes::serve(&folder, SERVED);
    push(&folder, "orders", 0, &["before it"]);
    push(&folder, "orders", 0, &["lost one", "lost two", "lost three"]);
    push(&folder, "orders", 0, &["behind it"]);
    push(&folder, "orders", 1, &["in the other partition"]);
    push(&folder, "notes", 0, &["a lost note"]);
    push(&folder, "notes", 0, &["a note"]);
    push(&folder, "sound", 0, &["sound"]);
    let (code, sound, said) = ask(&folder, &["dnpipe", "verify"]);
    assert!(code == Some(0) && sound.ends_with("all as they were written\n"), "{sound}{said}");

    running.signal("TERM");
    assert!(running.end().success());
    flip(&folder, &["lost two", "a lost note"]);
    let _running = dnpipes::serve(&folder, SERVED);

    let of_orders = "\n  default/orders partition 0 offsets 1 to before 4: segment 00000001, bytes ";
    let of_notes = "\n  default/notes partition 0 offsets 0 to before 1: segment 00000001, bytes ";
    let (code, all, said) = ask(&folder, &["dnpipe", "verify"]);
    assert_eq!(code, Some(1), "{all}{said}");
    assert!(all.contains(" compared, and 2 ranges not as it was written\n"), "{all}");
    assert!(all.contains(of_orders) && all.contains(of_notes) && all.lines().count() == 3, "{all}");
    let (code, one, said) = ask(&folder, &["dnpipe", "verify", "orders"]);
    assert_eq!(code, Some(1), "{one}{said}");
    assert!(one.contains(", and 1 range not") && one.contains(of_orders) && !one.contains("notes"), "{one}");
    let (code, none, said) = ask(&folder, &["dnpipe", "verify", "sound"]);
    assert!(code == Some(0) && none.ends_with("all as they were written\n"), "{none}{said}");
    let (code, none, said) = ask(&folder, &["dnpipe", "verify", "nothing"]);
    assert!(code == Some(1) && none.is_empty() && said.contains("there is no dnpipe"), "{none}{said}");

    let (code, pulled, said) = ask(&folder, &["pull", "orders"]);
    let mut lines: Vec<_> = pulled.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["before it", "behind it", "in the other partition"], "{said}");
    assert!(code == Some(1) && said.contains("from offset 1 to before 4 are not as they were"), "{said}");
    let (code, pulled, said) = ask(&folder, &["pull", "orders", "--partition", "0", "--from", "4"]);
    assert_eq!((code, &*pulled), (Some(0), "behind it\n"), "{said}");
    let (code, pulled, said) = ask(&folder, &["pull", "notes", "--group", "readers"]);
    assert_eq!((code, &*pulled), (Some(0), "a note\n"), "{said}");
    // What is pushed now comes behind it.
    push(&folder, "notes", 0, &["a later one"]);
    let (_, pulled, _) = ask(&folder, &["pull", "notes", "--from", "1"]);
    assert_eq!(pulled, "a note\na later one\n");
}

#[test]
fn where_not_even_the_dnpipe_of_what_is_damaged_is_known_what_is_nowhere_is_told() {
    let folder = folder();
    let mut running = dnpipes::serve(&folder, SERVED);
    for value in ["before it", "lost", "behind it"] {
        push(&folder, "orders", 0, &[value]);
    }
    push(&folder, "notes", 0, &["a note"]);
    running.signal("TERM");
    assert!(running.end().success());
    // The header before it, too.
    damage(&folder, &["lost"], |bytes, place| bytes[place - 100..place].fill(0xee));
    let _running = dnpipes::serve(&folder, SERVED);

    let (code, pulled, told) = ask(&folder, &["pull", "orders", "--partition", "0"]);
    assert_eq!((code, &*pulled), (Some(1), "before it\nbehind it\n"), "{told}");
    assert!(told.contains("from offset 1 to before 2 are not as they were"), "{told}");
    let (code, found, said) = ask(&folder, &["dnpipe", "verify", "orders"]);
    assert_eq!(code, Some(1), "{found}{said}");
    assert!(found.contains("\n  unknown dnpipe: segment 00000001, bytes "), "{found}");
    let lost = "\n  default/orders partition 0 offsets 1 to before 2: no batch that can be read has them\n";
    assert!(found.contains(lost) && !found.contains("notes"), "{found}");
    assert!(found.contains("\n  unknown dnpipe: of what the server keeps of all dnpipes: "), "{found}");
    // What a pull is told of, verify tells, and the other way round.
    let ranges = |text: &str, begin: &str| {
        let of = |line: &str| {
            let mut numbers = line.split(begin).nth(1)?.split(" to before ");
            Some((numbers.next()?.to_owned(), numbers.next()?.split([' ', ':']).next()?.to_owned()))
        };
        text.lines().filter_map(of).collect::<Vec<_>>()
    };
    let (told, verified) = (ranges(&told, "from offset "), ranges(&found, "orders partition 0 offsets "));
    assert!(told.len() > 1 && told == verified, "{told:?} {found}");
}
