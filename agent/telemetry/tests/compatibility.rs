//! Compares the fields of the protocol with `proto/fields.lock`.
//!
//! After adding a field, or after removing one and reserving its number:
//! `cargo test -p forebay-telemetry --test compatibility -- --ignored update_lock`

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, fs, path::PathBuf};

use forebay_telemetry::v1::FILE_DESCRIPTOR_SET;
use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

const HEADER: &str =
    "# Numbers of all fields and enum values. See tests/compatibility.rs for the rules and the update.\n";

/// `message number` to `name type`, or to `reserved`.
type Fields = BTreeMap<(String, i32), String>;

fn lock_path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("proto/fields.lock")
}

fn of_proto() -> Fields {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut fields = Fields::new();
    for file in set.file.iter().filter(|file| file.package() == "forebay.telemetry.v1") {
        file.message_type.iter().for_each(|message| add_message(&mut fields, message));
        file.enum_type.iter().for_each(|it| add_enum(&mut fields, it));
    }
    fields
}

fn add_message(fields: &mut Fields, message: &DescriptorProto) {
    let name = message.name();
    for field in &message.field {
        fields.insert((name.to_owned(), field.number()), format!("{} {}", field.name(), type_of(field)));
    }
    for range in &message.reserved_range {
        for number in range.start()..range.end() {
            fields.insert((name.to_owned(), number), "reserved".into());
        }
    }
}

fn add_enum(fields: &mut Fields, it: &EnumDescriptorProto) {
    for value in &it.value {
        fields.insert((it.name().to_owned(), value.number()), format!("{} value", value.name()));
    }
    for range in &it.reserved_range {
        for number in range.start()..=range.end() {
            fields.insert((it.name().to_owned(), number), "reserved".into());
        }
    }
}

fn type_of(field: &FieldDescriptorProto) -> String {
    let label = match field.label() {
        Label::Repeated => "repeated ",
        _ if field.proto3_optional() => "optional ",
        _ => "",
    };
    match field.r#type() {
        Type::Message | Type::Enum => format!("{label}{}", field.type_name()),
        scalar => format!("{label}{}", scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase()),
    }
}

fn print(fields: &Fields) -> String {
    let lines = fields.iter().map(|((message, number), field)| format!("{message} {number} {field}\n"));
    HEADER.to_owned() + &lines.collect::<String>()
}

fn parse(text: &str) -> Fields {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let parse_line = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let (message, number) = (words.next().unwrap().to_owned(), words.next().unwrap().parse().unwrap());
        ((message, number), words.next().unwrap().to_owned())
    };
    lines.map(parse_line).collect()
}

/// The entries of `before` that `now` breaks.
fn broken(before: &Fields, now: &Fields) -> Vec<String> {
    let mut broken = Vec::new();
    for ((message, number), field) in before {
        match now.get(&(message.clone(), *number)) {
            Some(found) if found == field => {}
            Some(found) if found == "reserved" => {}
            Some(found) if field == "reserved" => {
                broken.push(format!("{message}: reserved number {number} is used by `{found}`"));
            }
            Some(found) => {
                broken.push(format!("{message}: number {number} was `{field}` and is now `{found}`"));
            }
            None => broken.push(format!("{message}: `{field}` was removed, add `reserved {number};`")),
        }
    }
    broken
}

#[test]
fn no_field_number_is_reused() {
    let locked = parse(&fs::read_to_string(lock_path()).unwrap());
    let now = of_proto();
    assert_eq!(broken(&locked, &now), Vec::<String>::new());
    assert!(locked == now, "fields.lock is out of date; see the comment at the top of this test");
}

#[test]
fn breaking_changes_are_found() {
    let before = parse("M 1 a uint64\nM 2 b uint64\nM 3 c uint64\nM 4 reserved\nM 5 e uint64\n");
    let now = parse("M 1 a uint64\nM 2 b string\nM 3 reserved\nM 4 d uint64\nM 6 f uint64\n");
    let broken = broken(&before, &now);
    assert_eq!(broken.len(), 3, "{broken:?}");
    assert!(broken[0].contains("number 2 was `b uint64`"));
    assert!(broken[1].contains("reserved number 4"));
    assert!(broken[2].contains("add `reserved 5;`"));
}

/// Refuses to write a lock file that hides a breaking change.
#[test]
#[ignore = "updates proto/fields.lock"]
fn update_lock() {
    let now = of_proto();
    if let Ok(text) = fs::read_to_string(lock_path()) {
        assert_eq!(broken(&parse(&text), &now), Vec::<String>::new());
    }
    fs::write(lock_path(), print(&now)).unwrap();
}
