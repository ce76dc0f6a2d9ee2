use std::time::{Duration, UNIX_EPOCH};

use forebay_usage::{Database, Dimension, Report, ReportRow, Tokens, UsageRecord};

use crate::postgres::Postgres;
use crate::record;

fn with_ids(records: Vec<UsageRecord>) -> Vec<(String, UsageRecord)> {
    records.into_iter().enumerate().map(|(number, record)| (format!("id-{number}"), record)).collect()
}

async fn report(database: &Database, by: &[Dimension], since: u64, until: u64) -> Vec<ReportRow> {
    let at = |second| UNIX_EPOCH + Duration::from_secs(second);
    database.report(&Report { by: by.to_vec(), since: at(since), until: at(until) }).await.unwrap()
}

async fn check(database: &Database) {
    database.create_table().await.unwrap();
    database.create_table().await.unwrap();
    database.insert(&[]).await.unwrap();
    assert_eq!(report(database, &[], 0, 1_000_000).await, []);
    assert_eq!(report(database, &[Dimension::Key], 0, 1_000_000).await, []);
    let records = with_ids(vec![
        record(100),
        UsageRecord { model: "m-lora".to_owned(), base_model: Some("m".to_owned()), ..record(101) },
        UsageRecord { status: 503, error: Some("upstream_reset"), tokens: None, ttft: None, ..record(102) },
        // Without a key, with unusual names.
        UsageRecord {
            api_key: None,
            group: Some("a\0b'; DROP TABLE forebay_usage; --".to_owned()),
            tokens: Some(Tokens { prompt: Some(u64::MAX / 4), reasoning: Some(2), ..Tokens::default() }),
            ..record(86_400 * 3)
        },
    ]);
    database.insert(&records).await.unwrap();
    // Sent again, because the response was lost.
    database.insert(&records).await.unwrap();

    let sales = ReportRow {
        values: vec![Some("sales".to_owned()), Some("m".to_owned())],
        requests: 3,
        failed: 1,
        without_usage: 1,
        prompt_tokens: 20,
        cached_tokens: 8,
        completion_tokens: 6,
        reasoning_tokens: 0,
        duration_seconds: 1.5,
    };
    let without_key = ReportRow {
        values: vec![None, Some("m".to_owned())],
        requests: 1,
        failed: 0,
        without_usage: 0,
        prompt_tokens: u64::MAX / 4,
        cached_tokens: 0,
        completion_tokens: 0,
        reasoning_tokens: 2,
        duration_seconds: 0.5,
    };
    let by = [Dimension::Key, Dimension::BaseModel];
    assert_eq!(report(database, &by, 0, 1_000_000).await, [without_key, sales.clone()]);
    // `until` is not included.
    assert_eq!(report(database, &by, 100, 86_400 * 3).await, std::slice::from_ref(&sales));
    assert_eq!(report(database, &[], 0, 103).await, [ReportRow { values: vec![], ..sales }]);

    let values =
        |rows: Vec<ReportRow>| -> Vec<_> { rows.into_iter().map(|row| (row.values, row.requests)).collect() };
    let some = |value: &str| Some(value.to_owned());
    let rows = report(database, &[Dimension::Model, Dimension::Status], 0, 1000).await;
    assert_eq!(
        values(rows),
        [
            (vec![some("m"), some("200")], 1),
            (vec![some("m-lora"), some("200")], 1),
            (vec![some("m"), some("503")], 1)
        ]
    );
    let rows = report(database, &[Dimension::Day, Dimension::Group], 0, 1_000_000).await;
    let odd = "a\u{fffd}b'; DROP TABLE forebay_usage; --";
    assert_eq!(values(rows), [(vec![some("3"), some(odd)], 1), (vec![some("0"), some("eu")], 3)]);

    assert_eq!(database.delete_before(UNIX_EPOCH + Duration::from_secs(102)).await.unwrap(), 2);
    assert_eq!(report(database, &[], 0, 1_000_000).await[0].requests, 2);
}

#[tokio::test]
async fn sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("usage.db").display());
    check(&Database::new(&url).unwrap()).await;
    // What was stored is there after a restart.
    assert_eq!(report(&Database::new(&url).unwrap(), &[], 0, 1_000_000).await[0].requests, 2);
}

#[tokio::test]
async fn postgres() {
    let Some(mut postgres) = Postgres::new() else { return };
    postgres.start();
    let database = Database::new(&postgres.url()).unwrap();
    while database.create_table().await.is_err() {
        tokio::task::yield_now().await;
    }
    check(&database).await;
}

#[test]
fn invalid_urls_are_errors_without_the_password() {
    for (url, problem) in [
        ("mysql://u:secret@h/d", "unknown scheme"),
        ("usage.db", "unknown scheme"),
        ("postgres://u:secret@[/d", "it cannot be parsed"),
    ] {
        let error = Database::new(url).unwrap_err().to_string();
        let expected = format!(
            "the URL of the usage database is invalid: {problem}. Use sqlite:PATH or postgres://USER:PASSWORD@HOST/NAME"
        );
        assert_eq!(error, expected);
    }
}
