//! `sql`: everything that is kept, as tables.
use std::time::Duration;

use anyhow::{Context, Result};
use datafusion::execution::context::SQLOptions;
use datafusion::prelude::SessionContext;
use driftline_evaluator::session::{REPLACED, Sessions, register_folder};
use driftline_store::{Manifest, Store};
use rustyline::error::ReadlineError;

use crate::cli::{Format, Global, SqlArgs};
use crate::output::render;
use crate::{config, pipeline};

/// Tables with one folder a model and date.
const TABLES: &[&str] = &[
    "history",
    "metrics",
    "confusion",
    "drift",
    "estimates",
    "label_lag",
    "quality",
    "serving",
    "errors",
    "comparisons",
    "curves",
    "windows",
    "accounts",
    "metrics_log",
    "alerts",
];

/// Rejected records, as they lie in the raw objects.
const DEAD_LETTERS: &str = "dead_letters";

/// How often a statement is asked while objects are replaced under it. Fewer: queries fail on a busy store. More: a query that
/// takes longer than the pause between two revisions is asked in vain for longer.
const TRIES: u32 = 8;
/// Doubled from try to try, to six seconds: somewhere in between the windows rest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

pub(crate) async fn run(global: &Global, args: &SqlArgs) -> Result<()> {
    let config = config::load(global)?;
    let store = Store::open(&config.store.url, &config.store.options).context("open the store")?;
    Manifest::load(&store)
        .await
        .context("read the manifest")?
        .with_context(|| format!("there is no Driftline store at {} (set store.url or --store)", config.store.url))?;
    let sessions = pipeline::sessions(&config, &store);
    match &args.query {
        Some(query) => {
            for statement in statements(query) {
                print!("{}", ask(&sessions, &store, &statement, args.format).await?);
            }
            Ok(())
        }
        None => prompt(&sessions, &store, args.format).await,
    }
}

/// Runs one statement on the store as it is now. A session reads one version of each object, and fails when one is
/// replaced meanwhile; then a new one is asked.
pub(crate) async fn ask(sessions: &Sessions, store: &Store, statement: &str, format: Format) -> Result<String> {
    let mut pause = FIRST_PAUSE;
    for _ in 1..TRIES {
        let asked = async { answer(&open(sessions, store, statement).await?, statement, format).await };
        match asked.await {
            Err(error) if format!("{error:#}").contains(REPLACED) => tokio::time::sleep(pause).await,
            said => return said,
        }
        pause *= 2;
    }
    answer(&open(sessions, store, statement).await?, statement, format).await
}

/// A session with the tables that a statement may ask for, as far as there are any.
pub(crate) async fn open(sessions: &Sessions, store: &Store, statement: &str) -> Result<SessionContext> {
    let session = sessions.open().context("open a session")?;
    for table in TABLES.iter().filter(|table| may_ask_for(statement, table)) {
        register_folder(&session, table, table, &["model_name", "date"])
            .await
            .with_context(|| format!("open {table}"))?;
    }
    if may_ask_for(statement, DEAD_LETTERS) {
        register_dead_letters(&session, store).await?;
    }
    Ok(session)
}

/// Whether a statement names a table, or asks which there are. Opening a table reads the footers of all its objects, so one
/// that is not asked for stays closed.
fn may_ask_for(statement: &str, table: &str) -> bool {
    let statement = statement.to_lowercase();
    [table, "tables", "information_schema"].iter().any(|word| statement.contains(word))
}

async fn register_dead_letters(session: &SessionContext, store: &Store) -> Result<()> {
    let Some(manifest) = Manifest::load(store).await.context("read the manifest")? else { return Ok(()) };
    let columns = "topic, partition, \"offset\", \"index\", reason, detail, payload, received_at";
    let (mut parts, mut names) = (Vec::new(), Vec::new());
    for (number, chain) in manifest.chains().into_iter().enumerate() {
        let name = format!("raw_{number}");
        let folder = driftline_store::paths::raw_folder(&driftline_store::chain_name(&chain.key, chain.partition));
        if register_folder(session, &name, &folder, &[]).await.with_context(|| format!("open {folder}"))? {
            parts.push(format!("SELECT {columns} FROM {name} WHERE reason IS NOT NULL"));
            names.push(name);
        }
    }
    if !parts.is_empty() {
        let view = format!("CREATE VIEW {DEAD_LETTERS} AS {}", parts.join(" UNION ALL "));
        session.sql(&view).await.context("open dead_letters")?;
        // The view keeps what it reads; its parts are no tables for users.
        for name in names {
            session.deregister_table(&name).with_context(|| format!("close {name}"))?;
        }
    }
    Ok(())
}

/// Runs one statement; only reading is allowed.
pub(crate) async fn answer(session: &SessionContext, statement: &str, format: Format) -> Result<String> {
    let options = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    let frame = session.sql_with_options(statement, options).await.map_err(readable)?;
    let schema = std::sync::Arc::new(frame.schema().as_arrow().clone());
    let mut batches = frame.collect().await.map_err(readable)?;
    if batches.is_empty() {
        batches.push(arrow::array::RecordBatch::new_empty(schema));
    }
    render(&batches, format)
}

/// What the engine says, and what a user of a young store needs to know besides.
fn readable(error: datafusion::error::DataFusionError) -> anyhow::Error {
    let text = error.strip_backtrace();
    let hint = TABLES
        .iter()
        .chain(&[DEAD_LETTERS])
        .find(|table| text.contains("not found") && text.contains(&format!(".{table}'")));
    match hint {
        Some(table) => anyhow::anyhow!("the store has no rows of `{table}` yet ({text})"),
        None => anyhow::anyhow!("{text}"),
    }
}

/// Splits at semicolons outside quotes and comments.
fn statements(text: &str) -> Vec<String> {
    let mut statements = vec![String::new()];
    let mut quote = None;
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (None, ';') => {
                statements.push(String::new());
                continue;
            }
            (None, '-') if characters.peek() == Some(&'-') => {
                while characters.next_if(|c| *c != '\n').is_some() {}
                continue;
            }
            (None, '/') if characters.next_if_eq(&'*').is_some() => {
                let mut before = ' ';
                for c in characters.by_ref() {
                    if (before, c) == ('*', '/') {
                        break;
                    }
                    before = c;
                }
                // A comment parts words as a blank does.
                if let Some(last) = statements.last_mut() {
                    last.push(' ');
                }
                continue;
            }
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            _ => {}
        }
        if let Some(last) = statements.last_mut() {
            last.push(c);
        }
    }
    statements.into_iter().filter(|statement| !statement.trim().is_empty()).collect()
}

async fn prompt(sessions: &Sessions, store: &Store, format: Format) -> Result<()> {
    use std::io::IsTerminal;
    if !std::io::stdin().is_terminal() {
        let text = std::io::read_to_string(std::io::stdin()).context("read queries from standard input")?;
        for statement in statements(&text) {
            print!("{}", ask(sessions, store, &statement, format).await?);
        }
        return Ok(());
    }
    println!("Driftline SQL: statements end with `;`, \\d lists the tables, \\q leaves.");
    let mut editor = rustyline::DefaultEditor::new().context("open the prompt")?;
    let mut pending = String::new();
    loop {
        let line = match editor.readline(if pending.is_empty() { "driftline> " } else { "        -> " }) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                pending.clear();
                continue;
            }
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(error).context("read the prompt"),
        };
        match line.trim() {
            "\\q" | "exit" | "quit" => return Ok(()),
            "\\d" => "SHOW TABLES;".clone_into(&mut pending),
            _ => {
                pending.push_str(&line);
                pending.push('\n');
            }
        }
        if !pending.trim_end().ends_with(';') {
            continue;
        }
        // History is a convenience; a prompt without it still works.
        let _ = editor.add_history_entry(pending.trim());
        for statement in statements(&std::mem::take(&mut pending)) {
            match ask(sessions, store, &statement, format).await {
                Ok(text) => print!("{text}"),
                Err(error) => eprintln!("error: {error:#}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::statements;

    #[test]
    fn semicolons_in_quotes_and_comments_do_not_split() {
        assert_eq!(statements("SELECT 1; SELECT ';' ;"), ["SELECT 1", " SELECT ';' "]);
        assert_eq!(statements("SELECT 1 -- one; two\n;"), ["SELECT 1 \n"]);
        assert_eq!(statements("SELECT/* ; ' */1; SELECT 2 /* ; */"), ["SELECT 1", " SELECT 2  "]);
        assert_eq!(statements(" ;; "), Vec::<String>::new());
    }
}
