//! A body that the scanner accepts has the same model for the parsers of vLLM, in an old and a new version. Skipped without
//! Python or without a package index.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and prints what it did"
)]

use std::{
    cell::Cell,
    collections::BTreeSet,
    env,
    io::{Seek as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use forebay_openai::BodyScanner;
use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};

/// Starlette and python-multipart: old and new.
const VERSIONS: [[&str; 2]; 2] =
    [["starlette==0.40.0", "python-multipart==0.0.18"], ["starlette==1.10.0", "python-multipart==0.0.34"]];
const FORMS: usize = 30_000;
const DOCUMENTS: usize = 3_000;

struct Case {
    content_type: Option<String>,
    body: Vec<u8>,
}

fn choose<'a>(from: &[&'a str]) -> &'a str {
    from[fastrand::usize(..from.len())]
}

thread_local! {
    /// One in so many texts of the current body is odd.
    static ODD_RATE: Cell<u8> = const { Cell::new(16) };
}

/// Mostly `usual`, sometimes text that parsers may read differently.
fn odd(usual: &'static str, others: &[&'static str]) -> &'static str {
    if fastrand::u8(..ODD_RATE.get()) == 0 { choose(others) } else { usual }
}

const CONTENT_TYPES: &[&str] = &[
    "multipart/form-data; boundary=\"XX\"",
    "Multipart/Form-Data; BOUNDARY=XX",
    "multipart/form-data; boundary=YY; boundary=XX",
    "multipart/form-data; boundary=XX; boundary=YY",
    "multipart/form-data; boundary=XX; boundary*=utf-8''YY",
    "multipart/form-data; boundary=YY; boundary*0=XX",
    "multipart/form-data; boundary=XX; charset=utf-7",
    "multipart/form-data; boundary=XX; charset=utf-16",
    "multipart/form-data; boundary = XX",
    "multipart/form-data; boundary=XX;",
    "multipart/form-data; x=\"; boundary=YY\"; boundary=XX",
    "multipart/form-data; x=\"\\\"; boundary=YY; y=\"; boundary=XX",
];
const USUAL_PARAMETERS: &[&str] =
    &["name=\"NAME\"", "name=NAME", "NAME=\"NAME\"", "name=\"NAME\"; filename=\"a.wav\""];
const PARAMETERS: &[&str] = &[
    "name=\"NAME\"; name=x",
    "name=\"model\"; name=x",
    "name=x; name=\"model\"",
    "name=x; name=\"NAME\"",
    "name=x; name*=utf-8''NAME",
    "name*=utf-8''NAME",
    "name*0=NAME",
    "filename=\"\\\"; name=NAME; x=\"; name=y",
    "name=\"x\\\"; name=\\\"NAME\"",
    "name = \"NAME\"",
    "name=\"NAME\";",
    "name=\"NAME\"; filename*=utf-8''a",
    "name=\"NAME\" ; x=y",
    "name=NAME x",
    "x=y",
];
const MORE_HEADERS: &[&str] = &[
    "\r\nContent-Disposition: form-data; name=model",
    "\nContent-Disposition: form-data; name=model",
    "\r\n Content-Disposition: form-data; name=model",
    "\r\nContent-Type: text/plain; charset=utf-16",
    "\r\nContent-Transfer-Encoding: base64",
    "\r\nContent-Type: text/plain",
    "\r\n: x",
];

/// A form with up to four parts.
fn form() -> Case {
    ODD_RATE.set([20, 8, 5][fastrand::usize(..3)]);
    let content_type = odd("multipart/form-data; boundary=XX", CONTENT_TYPES);
    let mut body = odd("", &["\r\n", "x\r\n", "\r\n-x\r\n", "--YY\r\n"]).to_owned();
    for _ in 0..fastrand::usize(1..5) {
        let padding = odd("", &[" ", "\t", "-", "\r"]);
        let line_end = odd("\r\n", &["\n", "\r", "\r\n "]);
        let name = choose(&["model", "file", "prompt", "Model", "mod\\el"]);
        let parameter = odd(choose(USUAL_PARAMETERS), PARAMETERS).replace("NAME", name);
        let header = odd(
            "Content-Disposition",
            &["content-disposition", "Content-Disposition ", " Content-Disposition", "X"],
        );
        let kind = odd("form-data", &["attachment", "Form-Data", "form-data,"]);
        let more = odd("", MORE_HEADERS);
        let value = odd(
            choose(&["alpha", "beta", "gamma"]),
            &["alpha\r\n--XXbeta", "alp\u{e9}", "", "+AGE-", "alpha\r\n", "YWxwaGE="],
        );
        let boundary = odd("XX", &["YY"]);
        body += &format!(
            "--{boundary}{padding}{line_end}{header}: {kind}; {parameter}{more}{line_end}\r\n{value}\r\n"
        );
    }
    body += odd(
        "--XX--\r\n",
        &["--XX--", "--XX", "--XX--\r\nContent-Disposition: form-data; name=model\r\n\r\nbeta\r\n--XX--"],
    );
    Case { content_type: Some(content_type.to_owned()), body: body.into_bytes() }
}

const KEYS: &[&str] =
    &["\"mode\\u006c\"", "\"model\\u0000\"", "\"MODEL\"", "\"messages\"", "model", "'model'"];
const VALUES: &[&str] = &[
    "\"beta\"",
    "\"alph\\u0061\"",
    "\"\\ud83d\\ude00\"",
    "\"\\ud83d\"",
    "null",
    "NaN",
    "1e999",
    "[{\"model\":\"beta\"}]",
    "{\"model\":\"beta\"}",
    "\"a\\\"b\"",
    "\"\\/\"",
    "-Infinity",
    "01",
    "\"a\tb\"",
    "[",
    "\"\\x\"",
];

/// A document with odd JSON.
fn document() -> Case {
    ODD_RATE.set([20, 8][fastrand::usize(..2)]);
    let members: Vec<String> = (0..fastrand::usize(1..5))
        .map(|_| format!("{}:{}", odd(choose(&["\"model\"", "\"x\""]), KEYS), odd("\"alpha\"", VALUES)))
        .collect();
    let separator = odd(",", &[", ", ",\n", ",,", "\u{a0},", "\u{b},"]);
    let before = odd("", &[" ", "\u{feff}", "\u{c}", "[", "//\n"]);
    let behind = odd("", &["\n", "x", "{\"model\":\"beta\"}", "\0"]);
    let text = format!("{before}{{{}}}{behind}", members.join(separator));
    let body = match fastrand::u8(..20) {
        0 => text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        1 => text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
        _ => text.into_bytes(),
    };
    let types = [
        "",
        "application/x+json",
        "application/json; charset=utf-16",
        "text/plain",
        "application/x-www-form-urlencoded",
    ];
    let content_type = odd("application/json", &types);
    Case { content_type: (!content_type.is_empty()).then(|| content_type.to_owned()), body }
}

/// The model that the gateway routes by.
fn scanned(case: &Case, piece_bytes: usize) -> Option<String> {
    let mut headers = HeaderMap::new();
    if let Some(content_type) = &case.content_type {
        headers.insert(CONTENT_TYPE, HeaderValue::from_str(content_type).ok()?);
    }
    let mut scanner = BodyScanner::new(&headers).ok()?;
    for piece in case.body.chunks(piece_bytes) {
        scanner.feed(piece).ok()?;
    }
    scanner.finish().ok()?;
    scanner.model().map(ToString::to_string)
}

/// Runs a command. The error is what it printed.
fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{:?}: {error}", command.get_program()))?;
    let error = || String::from_utf8_lossy(&output.stderr).trim().to_owned();
    output.status.success().then_some(()).ok_or_else(error)
}

/// A Python with these packages.
fn python(packages: [&str; 2]) -> Result<PathBuf, String> {
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))
        .ok_or("HOME is not set")?;
    let folder = cache.join("forebay/engine-parsers").join(packages.join("-"));
    let interpreter = folder.join("bin/python");
    if run(Command::new(&interpreter).args(["-c", "import starlette.requests, multipart"])).is_err() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        run(Command::new(&interpreter).args(["-m", "pip", "install", "--quiet"]).args(packages))?;
    }
    Ok(interpreter)
}

fn engine_models(interpreter: &Path, cases: &[Case]) -> Vec<Option<String>> {
    let mut input = tempfile::tempfile().unwrap();
    for case in cases {
        let body: String = case.body.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(input, "{}", serde_json::json!({ "type": case.content_type, "body": body })).unwrap();
    }
    input.rewind().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/engine_parsers.py");
    let output =
        Command::new(interpreter).arg(script).stdin(input).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success());
    let output = String::from_utf8(output.stdout).unwrap();
    output.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn an_accepted_body_has_the_same_model_for_the_engine() {
    fastrand::seed(11);
    let forms = (0..FORMS).map(|_| form());
    let cases: Vec<Case> = forms.chain((0..DOCUMENTS).map(|_| document())).collect();
    let ours: Vec<Option<String>> = cases
        .iter()
        .map(|case| {
            let whole = scanned(case, usize::MAX);
            let pieces = scanned(case, fastrand::usize(1..9));
            assert_eq!(whole, pieces, "{:?}", String::from_utf8_lossy(&case.body));
            whole
        })
        .collect();
    for packages in VERSIONS {
        let interpreter = match python(packages) {
            Ok(interpreter) => interpreter,
            Err(reason) => {
                println!("skipped: {packages:?}: {reason}");
                continue;
            }
        };
        let theirs = engine_models(&interpreter, &cases);
        assert_eq!(theirs.len(), cases.len());
        let (mut wrong, mut same, mut only_theirs) = (BTreeSet::new(), [0; 2], 0);
        for (at, case) in cases.iter().enumerate() {
            match (&ours[at], &theirs[at]) {
                (Some(ours), Some(theirs)) if ours == theirs => same[usize::from(at >= FORMS)] += 1,
                (Some(ours), Some(theirs)) => {
                    let body = String::from_utf8_lossy(&case.body);
                    wrong.insert(format!("{ours:?} or {theirs:?}: {:?} {body:?}", case.content_type));
                }
                (None, Some(_)) => only_theirs += 1,
                (_, None) => {}
            }
        }
        let [forms, documents] = same;
        println!(
            "{packages:?}: same model in {forms} forms and {documents} documents; {only_theirs} accepted by the engine only"
        );
        let examples: Vec<_> = wrong.iter().take(5).collect();
        assert!(wrong.is_empty(), "{packages:?}: {} bodies are read differently: {examples:#?}", wrong.len());
        assert!(
            forms > FORMS / 100 && documents > DOCUMENTS / 20,
            "too few accepted bodies to mean anything"
        );
    }
}
