//! A model's settings change while its events stream, and the past is judged again: no event changes its window, and no
//! figure changes that nobody asked for.

use anyhow::{Result, ensure};
use driftline_integration_tests::generator::{Generated, Later, ModelOptions, Options, Task, generate};
use driftline_integration_tests::kafka::{Broker, Topics};
use serde::Deserialize;

use crate::judge;
use crate::sandbox::Sandbox;

const MODEL: &str = "card-fraud";
/// Midnights of Amsterdam from 2026-03-29 on, whose first day has 23 hours.
const MIDNIGHTS: [i64; 4] = [1_774_738_800, 1_774_821_600, 1_774_908_000, 1_774_994_400];

fn options() -> Options {
    let later = Later { boundaries_us: MIDNIGHTS.map(|time| time * 1_000_000).to_vec(), horizon_secs: 10 * 86_400 };
    let fraud = ModelOptions { later: Some(later), ..ModelOptions::new(MODEL, Task::Binary(["fraud", "ok"])) };
    let other =
        ModelOptions { window_secs: 6 * 3_600, ..ModelOptions::new("clicked", Task::Binary(["true", "false"])) };
    Options {
        seed: 4,
        start_us: 1_774_598_400_000_000, // 2026-03-27T08:00:00Z
        span_secs: 3 * 86_400,
        models: vec![fraud, other],
        ..Options::default()
    }
}

/// The sections of all models, the first with these settings in place of its window and horizon.
fn settings(options: &Options, of_first: &str) -> String {
    let mut sections: Vec<String> = options.models.iter().map(ModelOptions::to_toml).collect();
    let is_replaced = |line: &&str| !line.starts_with("window = ") && !line.starts_with("label_horizon = ");
    let kept: Vec<&str> = sections[0].lines().filter(is_replaced).collect();
    sections[0] = format!("{}\n{of_first}\n", kept.join("\n"));
    sections.join("\n")
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Published {
    window_start: String,
    window_end: String,
    revision: i64,
}

async fn published(sandbox: &Sandbox, before: i64) -> Result<Vec<Published>> {
    let query = format!(
        "SELECT CAST(window_start AS VARCHAR) AS window_start, CAST(window_end AS VARCHAR) AS window_end, revision FROM windows \
         WHERE model_name = '{MODEL}' AND CAST(window_start AS BIGINT) < {before} ORDER BY window_start"
    );
    sandbox.sql(&query).await
}

/// T1, T4, A1: hours become days of Amsterdam in the middle of the stream, with another horizon; then the past is judged under
/// other segments and another threshold, and late labels follow.
#[tokio::test(flavor = "multi_thread")]
async fn t1_hours_become_days_in_the_middle_of_a_stream() -> Result<()> {
    let broker = Broker::embedded()?;
    let options = options();
    let run = generate(&options);
    let topics = Topics::unique();
    broker.create_topics(&topics, &run).await?;
    let sandbox = Sandbox::new(broker.brokers(), &topics, &options.models_toml())?;
    let (first, rest) = run.records.split_at(run.records.len() * 35 / 100);
    let (second, last) = rest.split_at(rest.len() * 9 / 10);
    broker.produce(&topics, first).await?;
    sandbox.catch_up().await?;
    let hours = published(&sandbox, i64::MAX).await?;
    let newest = hours.last().map(|window| window.window_end.clone()).unwrap_or_default();
    ensure!(newest.starts_with("2026-03-28"), "the change is to fall within the day before the 29th, not at {newest}");

    let days = "window = \"day\"\ntimezone = \"Europe/Amsterdam\"\nlabel_horizon = \"10d\"";
    sandbox.reconfigure(&settings(&options, days))?;
    sandbox.catch_up().await?;
    ensure!(published(&sandbox, i64::MAX).await? == hours, "a configuration alone has judged something again");
    // Late events for the hours, and two processes one after the other.
    for records in second.chunks(second.len().div_ceil(2)) {
        broker.produce(&topics, records).await?;
        sandbox.catch_up().await?;
    }

    // All that can be said otherwise, and windows and horizons that must not matter.
    let mut otherwise = options.clone();
    otherwise.models[0].threshold = 0.8;
    let hours_again = "window = \"1h\"\nlabel_horizon = \"1m\"";
    let text = settings(&otherwise, hours_again);
    sandbox.reconfigure(&text.replacen("segments = [\"region\", \"channel\"]", "segments = [\"region\"]", 1))?;
    let before = published(&sandbox, i64::MAX).await?;
    let said = sandbox.succeed(&["reevaluate", "--model", MODEL]).await?;
    ensure!(said.starts_with(&format!("{} window(s) of {MODEL}", before.len())), "{said}");
    sandbox.catch_up().await?;
    let expected = |window: &Published| (window.window_start.clone(), window.window_end.clone(), window.revision + 1);
    let found = |window: &Published| (window.window_start.clone(), window.window_end.clone(), window.revision);
    let after = published(&sandbox, i64::MAX).await?;
    ensure!(
        after.iter().map(found).eq(before.iter().map(expected)),
        "each window was to be judged once more, where it is: {before:?} → {after:?}"
    );
    broker.produce(&topics, last).await?;
    sandbox.catch_up().await?;
    judge::check(&sandbox, &topics, &otherwise, &without_channel(generate(&otherwise))).await?;
    // What was believed before is still there.
    #[derive(Deserialize)]
    struct Count {
        count: u64,
    }
    let query =
        format!("SELECT count(*) AS count FROM metrics_log WHERE model_name = '{MODEL}' AND segment = 'channel'");
    ensure!(sandbox.sql::<Count>(&query).await?[0].count > 0, "earlier revisions are kept");
    Ok(())
}

fn without_channel(mut run: Generated) -> Generated {
    for ((model, _), window) in &mut run.truth.windows {
        if model == MODEL {
            window.figures.retain(|slice, _| slice.segment.as_ref().is_none_or(|(name, _)| name != "channel"));
        }
    }
    run
}

/// Wrong settings end with 2, and every fault names its key.
#[tokio::test]
async fn windows_that_cannot_be_are_refused() -> Result<()> {
    let sandbox = Sandbox::with_config(
        "[[models]]\nname = \"a\"\nwindow = \"day\"\ntimezone = \"Europe/Amsterdm\"\n\
         [[models]]\nname = \"b\"\nwindow = \"1h\"\ntimezone = \"Asia/Tokyo\"\n",
    )?;
    let said = sandbox.run(&["check"]).await?;
    ensure!(said.code == Some(2), "{said:?}");
    for fault in [
        r#"models[0].timezone: "Europe/Amsterdm" is no IANA time zone; did you mean "Europe/Amsterdam"?"#,
        "models[1].timezone: has no effect on windows of a fixed length",
    ] {
        ensure!(said.stderr.contains(fault), "{fault} is not in\n{}", said.stderr);
    }
    Ok(())
}
