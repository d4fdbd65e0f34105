//! `driftline report`: its numbers are the tables' own, and its page needs nothing but itself.

use anyhow::{Context, Result, ensure};
use driftline_integration_tests::generator::{Options, generate};
use driftline_integration_tests::kafka::{Broker, Topics};
use serde::Deserialize;
use serde_json::Value;

use crate::sandbox::Sandbox;

#[derive(Debug, Deserialize)]
struct Row {
    model_name: String,
    metric: String,
    value: Option<f64>,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_says_what_the_tables_say() -> Result<()> {
    let broker = Broker::embedded()?;
    let options = Options { predictions: 800, ..Options::default() };
    let run = generate(&options);
    let topics = Topics::unique();
    broker.create_topics(&topics, &run).await?;
    broker.produce(&topics, &run.records).await?;
    let sandbox = Sandbox::new(broker.brokers(), &topics, &options.models_toml())?;
    sandbox.catch_up().await?;
    let query = "SELECT model_name, metric, value FROM metrics WHERE segment IS NULL AND model_version IS NULL AND class IS NULL";
    let rows: Vec<Row> = sandbox.sql(query).await?;
    let mut models: Vec<&str> = rows.iter().map(|row| row.model_name.as_str()).collect();
    models.sort_unstable();
    models.dedup();
    ensure!(models.len() >= 3, "one model of each task: {models:?}");
    for model in models {
        let of = |row: &&Row| row.model_name == model;
        sandbox.succeed(&["report", "--model", model, "--out", "report.json"]).await?;
        let report: Value = serde_json::from_slice(&std::fs::read(sandbox.path("report.json"))?)?;
        let points = report["metrics"].as_array().context("metrics are a list")?;
        let mut reported: Vec<(String, Option<f64>)> = points
            .iter()
            .filter(|point| point["class"].is_null())
            .map(|point| (point["metric"].as_str().unwrap_or_default().to_owned(), point["value"].as_f64()))
            .collect();
        let mut stored: Vec<(String, Option<f64>)> =
            rows.iter().filter(of).map(|row| (row.metric.clone(), row.value)).collect();
        let key = |one: &(String, Option<f64>)| (one.0.clone(), one.1.map(f64::to_bits));
        reported.sort_by_key(key);
        stored.sort_by_key(key);
        ensure!(reported == stored, "{model}: the report has {} values, the table {}", reported.len(), stored.len());
        ensure!(report["attention"].as_array().is_some_and(|all| !all.is_empty()), "{model} has nothing to say");
        let labelled: i64 = sum(&report["windows"], "labelled");
        let cells: i64 = sum(&report["confusion"], "count");
        ensure!(report["task"] == "regression" || (cells > 0 && cells <= labelled), "{cells} cells, {labelled} labels");

        sandbox.succeed(&["report", "--model", model, "--out", "report.html"]).await?;
        let page = std::fs::read_to_string(sandbox.path("report.html"))?;
        ensure_self_contained(&page).with_context(|| format!("the page of {model}"))?;
        ensure!(page.contains(&format!("<h1>{model}</h1>")), "it is not about {model}");
        // Every row of history is a request, and the report's serving is the table's.
        #[derive(Debug, Deserialize)]
        struct Counted {
            model_name: String,
            n: f64,
        }
        let history: Vec<Counted> =
            sandbox.sql("SELECT model_name, CAST(count(*) AS DOUBLE) AS n FROM history GROUP BY model_name").await?;
        let history = history.iter().filter(|row| row.model_name == model).map(|row| row.n).sum::<f64>();
        let requests: f64 =
            report["health"].as_array().into_iter().flatten().filter_map(|row| row["requests"].as_f64()).sum();
        ensure!(history > 0.0 && requests == history, "{requests} requests are reported, history has {history}");
        let found = sandbox.succeed(&["segments", "--model", model, "--min-rows", "5", "--format", "json"]).await?;
        ensure!(serde_json::from_str::<Value>(&found)?.is_array(), "{found}");
        let markdown = sandbox.succeed(&["report", "--model", model, "--out", "-"]).await?;
        ensure!(markdown.starts_with(&format!("# {model}")), "{markdown}");
    }

    // Outside the period there is nothing, and that is said; so is a name that nobody knows.
    let said =
        sandbox.run(&["report", "--model", "clicked", "--to", "1999-01-01T00:00:00Z", "--out", "r.html"]).await?;
    ensure!(said.code == Some(1) && said.stderr.contains("no window in this period"), "{said:?}");
    let said = sandbox.run(&["report", "--model", "nobody", "--out", "r.html"]).await?;
    ensure!(said.code == Some(1) && said.stderr.contains("knows no model \"nobody\""), "{said:?}");
    let said = sandbox.run(&["segments", "--model", "clicked", "--metric", "f1"]).await?;
    ensure!(said.code == Some(2) && said.stderr.contains("accuracy, precision"), "{said:?}");
    let said = sandbox.run(&["report", "--model", "clicked", "--out", "r.pdf"]).await?;
    ensure!(said.code == Some(2) && said.stderr.contains(".html"), "{said:?}");
    Ok(())
}

fn sum(rows: &Value, column: &str) -> i64 {
    rows.as_array().into_iter().flatten().filter_map(|row| row[column].as_i64()).sum()
}

/// Nothing is loaded, nothing runs, every element that is opened is closed, every chart has a name and a table, and every link
/// leads somewhere.
fn ensure_self_contained(page: &str) -> Result<()> {
    for foreign in ["<script", "<link", "<img", "<iframe", "@import", "url(", "http://", "https://", "javascript:"] {
        ensure!(!page.contains(foreign), "it has {foreign:?}");
    }
    for number in ["NaN", ">inf", "-inf"] {
        ensure!(!page.contains(number), "it has {number:?}");
    }
    let mut open: Vec<&str> = Vec::new();
    for tag in page.split('<').skip(1).filter_map(|rest| rest.split('>').next()) {
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap_or_default();
        if tag.starts_with('!') || ["meta", "br"].contains(&name) || tag.ends_with('/') {
            continue;
        }
        if tag.starts_with('/') {
            ensure!(open.pop() == Some(name), "</{name}> closes another element");
        } else {
            open.push(name);
        }
    }
    ensure!(open.is_empty(), "not closed: {open:?}");
    for chart in page.split("<svg").skip(1) {
        ensure!(
            chart.split('>').next().is_some_and(|tag| tag.contains("role=\"img\" aria-label=\"")),
            "a chart has no name"
        );
        let after = chart.split_once("</svg>").map(|(_, after)| after).unwrap_or_default();
        let next = after.find("<svg").unwrap_or(after.len());
        ensure!(after[..next].contains("<table"), "a chart has no table");
    }
    for id in page.split("href=\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
        ensure!(page.contains(&format!("id=\"{id}\"")), "#{id} leads nowhere");
    }
    Ok(())
}
