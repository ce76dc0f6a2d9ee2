//! `forebay usage`: what requests used, from the usage database of the gateway.

mod prices;
mod render;
mod summary;
mod window;

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use anyhow::Context as _;
use clap::ValueEnum;
use forebay_usage::{Database, Dimension, Report};
use time::OffsetDateTime;

pub(crate) use self::render::{COUNTS, json_name};
use self::{prices::Prices, summary::summarize, window::Moment};

#[derive(clap::Args, Debug)]
#[group(skip)]
pub(crate) struct Options {
    /// Usage database, as the gateway's --usage-db: sqlite:PATH or postgres://USER:PASSWORD@HOST/NAME.
    #[arg(long = "db", env = "FOREBAY_USAGE_DB", hide_env_values = true, value_name = "URL")]
    database: String,

    /// What to sum up by, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "key,model", value_name = "WHAT,…")]
    by: Vec<Dimension>,

    /// Requests that ended since then: a time ago, such as 7d, or a time such as 2027-01-31T00:00:00Z.
    #[arg(long, default_value = "30d", value_name = "TIME")]
    since: Moment,

    /// Requests that ended before this time. [default: now]
    #[arg(long, value_name = "TIME")]
    until: Option<Moment>,

    /// YAML file with the prices of models per million tokens, for costs. Example of its content:
    /// {currency: EUR, models: {MODEL: {input: 0.1, cached: 0.02, output: 0.4}}}
    #[arg(long, value_name = "FILE")]
    prices: Option<PathBuf>,

    /// Output format.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A table.
    Table,
    /// One JSON document.
    Json,
    /// Comma-separated values with a header line.
    Csv,
}

pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    let prices = options.prices.as_deref().map(Prices::read).transpose()?;
    let now = OffsetDateTime::now_utc();
    let since = options.since.resolve(now);
    let until = options.until.map_or(now, |until| until.resolve(now));
    if since >= until {
        anyhow::bail!("--since must be before --until");
    }
    let database = Database::for_reports(&options.database)?;
    let mut by = options.by.clone();
    // Prices are those of models.
    if prices.is_some() {
        by.extend([Dimension::Model, Dimension::BaseModel]);
    }
    let report = Report { by, since: since.into(), until: until.into() };
    let rows = database.report(&report).await.context("cannot read the usage of requests")?;
    database.close().await;
    let rows = summarize(rows, options.by.len(), prices.as_ref());
    let text = match options.output {
        Output::Table => render::table(&options.by, &rows, prices.as_ref()),
        Output::Json => {
            format!("{:#}\n", render::document(&options.by, &rows, prices.as_ref(), since, until)?)
        }
        Output::Csv => render::csv(&options.by, &rows, prices.as_ref())?,
    };
    Ok(io::stdout().write_all(text.as_bytes())?)
}
