//! The configuration as it was typed: file, environment, flags, in this order; then validated as a whole.
use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, Result};
use driftline_schemas::config::Config;
use toml::{Table, Value};

use crate::BadConfig;
use crate::cli::Global;

/// Prefix of environment variables that override keys: `DRIFTLINE__SECTION__KEY`.
const PREFIX: &str = "DRIFTLINE__";
const DEFAULT_FILE: &str = "driftline.toml";

/// Reads the configuration that the flags name.
pub(crate) fn load(global: &Global) -> Result<Config> {
    validate(table(global)?)
}

/// The configuration as one table, before it is validated.
pub(crate) fn table(global: &Global) -> Result<Table> {
    let mut table = match &global.config {
        Some(file) => read(file)?,
        None if Path::new(DEFAULT_FILE).exists() => read(Path::new(DEFAULT_FILE))?,
        None => Table::new(),
    };
    override_from(&mut table, std::env::vars_os())?;
    if let Some(store) = &global.store {
        set(&mut table, &["store", "url"], Value::String(store.clone()));
    }
    if let Some(brokers) = &global.brokers {
        set(&mut table, &["kafka", "brokers"], Value::String(brokers.clone()));
    }
    read_secrets(&mut table)?;
    Ok(table)
}

/// Validates a table; all faults are reported at once.
pub(crate) fn validate(table: Table) -> Result<Config> {
    let faulty = |faults: &[String]| {
        let lines: Vec<String> = faults.iter().map(|fault| format!("  {fault}")).collect();
        BadConfig(format!("the configuration has {} fault(s):\n{}", lines.len(), lines.join("\n")))
    };
    let config = Config::from_table(table)
        .map_err(|faults| faulty(&faults.iter().map(ToString::to_string).collect::<Vec<_>>()))?;
    // The configuration only knows that keys are text.
    let faults = driftline_alerts::message::faults(&config.alerts);
    if faults.is_empty() { Ok(config) } else { Err(faulty(&faults).into()) }
}

fn read(file: &Path) -> Result<Table> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| BadConfig(format!("cannot read the configuration {}: {error}", file.display())))?;
    text.parse::<Table>().map_err(|error| BadConfig(format!("{} is not TOML: {error}", file.display())).into())
}

/// Applies the variables with our prefix; others need not even be text.
fn override_from(table: &mut Table, variables: impl Iterator<Item = (OsString, OsString)>) -> Result<()> {
    for (name, value) in variables {
        let Some(path) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        let Some(value) = value.to_str() else {
            return Err(BadConfig(format!("{PREFIX}{path} is not UTF-8")).into());
        };
        override_key(table, path, value);
    }
    Ok(())
}

/// `KAFKA__BROKERS=…` sets `kafka.brokers`. A value that is TOML (a number, a list) is taken as such, else as text.
fn override_key(table: &mut Table, path: &str, value: &str) {
    let lower = path.to_lowercase();
    let mut keys: Vec<String> = lower.split("__").map(str::to_owned).collect();
    // Names of librdkafka's properties have dots, which environment variables cannot.
    if keys.len() == 3 && keys[0] == "kafka" && keys[1] == "properties" {
        keys[2] = property(&keys[2]);
        return set(table, &["kafka", "properties", &keys[2]], Value::String(value.to_owned()));
    }
    let parsed = format!("value = {value}").parse::<Table>().ok().and_then(|mut table| table.remove("value"));
    let value = parsed.unwrap_or_else(|| Value::String(value.to_owned()));
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    set(table, &keys, value);
}

/// `sasl_password` is `sasl.password`, and `sasl_password_file` names the file that holds it. Some properties of OAuth end in
/// `file` themselves.
fn property(name: &str) -> String {
    match name.strip_suffix("_file") {
        Some(secret) if !name.starts_with("sasl_oauthbearer_") => format!("{}_file", secret.replace('_', ".")),
        _ => name.replace('_', "."),
    }
}

fn set(table: &mut Table, keys: &[&str], value: Value) {
    let Some((last, sections)) = keys.split_last() else { return };
    let mut at = table;
    // `MODELS__0__THRESHOLD` is a key of the first model; a number beyond the list is left to become a fault.
    if let [list, index, rest @ ..] = keys
        && !rest.is_empty()
        && let Some(Value::Array(items)) = at.get_mut(*list)
        && let Some(Value::Table(item)) = index.parse::<usize>().ok().and_then(|index| items.get_mut(index))
    {
        return set(item, rest, value);
    }
    for section in sections {
        let entry = at.entry((*section).to_owned()).or_insert_with(|| Value::Table(Table::new()));
        if !entry.is_table() {
            *entry = Value::Table(Table::new());
        }
        at = entry.as_table_mut().expect("it was made a table");
    }
    at.insert((*last).to_owned(), value);
}

/// `"sasl.password_file" = "/run/secrets/…"` puts the file's text in place of `sasl.password`; likewise for all texts
/// under `kafka.properties` and `store.options`.
fn read_secrets(table: &mut Table) -> Result<()> {
    for keys in [["kafka", "properties"], ["store", "options"]] {
        let section = table.get_mut(keys[0]).and_then(|value| value.get_mut(keys[1])).and_then(Value::as_table_mut);
        let Some(section) = section else { continue };
        let files: Vec<String> = section.keys().filter(|key| key.ends_with("_file")).cloned().collect();
        for key in files {
            let Some(Value::String(file)) = section.remove(&key) else { continue };
            let text = std::fs::read_to_string(&file)
                .with_context(|| format!("read {}.{}.{key}", keys[0], keys[1]))
                .map_err(|error| BadConfig(format!("{error:#}")))?;
            section.insert(key.trim_end_matches("_file").to_owned(), Value::String(text.trim_end().to_owned()));
        }
    }
    let sinks = table.get_mut("alerts").and_then(|alerts| alerts.get_mut("sinks")).and_then(Value::as_array_mut);
    for (at, sink) in sinks.into_iter().flatten().enumerate() {
        let Some(sink) = sink.as_table_mut() else { continue };
        // Slack's and Teams' addresses are secrets themselves.
        for key in ["url", "secret"] {
            let Some(Value::String(file)) = sink.remove(&format!("{key}_file")) else { continue };
            let text = std::fs::read_to_string(&file)
                .with_context(|| format!("read alerts.sinks[{at}].{key}_file"))
                .map_err(|error| BadConfig(format!("{error:#}")))?;
            sink.insert(key.to_owned(), Value::String(text.trim_end().to_owned()));
        }
    }
    Ok(())
}

/// Hides what nobody should read over a shoulder.
pub(crate) fn redact(table: &mut Table) {
    for (key, value) in table.iter_mut() {
        match value {
            Value::Table(inner) => redact(inner),
            Value::Array(items) => {
                for sink in items.iter_mut().filter_map(Value::as_table_mut) {
                    redact(sink);
                    // The addresses of sinks admit whoever knows them, and so do their headers.
                    for secret in ["url", "headers"] {
                        if key == "sinks" && sink.contains_key(secret) {
                            sink.insert(secret.to_owned(), Value::String("***".into()));
                        }
                    }
                }
            }
            Value::String(text) if is_secret(key) => "***".clone_into(text),
            _ => {}
        }
    }
}

fn is_secret(key: &str) -> bool {
    let key = key.to_lowercase();
    ["password", "secret", "token", "access_key", "account_key", "credential", "sas", "ssl.key"]
        .iter()
        .any(|word| key.contains(word) && key != "sasl.mechanism" && key != "sasl.mechanisms" && key != "sasl.username")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_overrides_the_file_by_section_and_key() {
        let mut table: Table = "[kafka]\nbrokers = \"a:1\"\n".parse().unwrap();
        override_key(&mut table, "KAFKA__BROKERS", "b:2");
        override_key(&mut table, "KAFKA__CREATE_TOPICS", "true");
        override_key(&mut table, "KAFKA__PROPERTIES__SECURITY_PROTOCOL", "ssl");
        override_key(&mut table, "MODELS_MAX", "7");
        let config = validate(table).unwrap();
        assert_eq!(config.kafka.brokers, "b:2");
        assert!(config.kafka.create_topics);
        assert_eq!(config.kafka.properties["security.protocol"], "ssl");
        assert_eq!(config.judge.models_max, 7);
    }

    #[test]
    fn the_environment_reaches_into_listed_models() {
        let mut table: Table = "[[models]]\nname = \"a\"\n[[models]]\nname = \"b\"\n".parse().unwrap();
        override_key(&mut table, "MODELS__1__THRESHOLD", "0.3");
        let config = validate(table.clone()).unwrap();
        assert_eq!((config.judge.model("a").threshold, config.judge.model("b").threshold), (0.5, 0.3));
        override_key(&mut table, "MODELS__2__THRESHOLD", "0.3");
        assert!(validate(table).unwrap_err().to_string().contains("models"));
    }

    #[test]
    fn a_value_that_looks_like_a_number_or_a_time_can_be_a_text() {
        let mut table = Table::new();
        override_key(&mut table, "KAFKA__GROUP", "7");
        override_key(&mut table, "KAFKA__START", "2026-01-01T00:00:00Z");
        let config = validate(table).unwrap();
        assert_eq!(config.kafka.group, "7");
        assert!(matches!(config.kafka.start, driftline_schemas::config::Start::At(_)));
    }

    #[cfg(unix)]
    #[test]
    fn variables_of_others_need_not_be_text() {
        use std::os::unix::ffi::OsStringExt;
        let odd = || OsString::from_vec(vec![b'x', 0xff]);
        let ours = (OsString::from("DRIFTLINE__KAFKA__GROUP"), OsString::from("mine"));
        let mut table = Table::new();
        override_from(&mut table, [(odd(), odd()), ours].into_iter()).unwrap();
        assert_eq!(table["kafka"]["group"].as_str(), Some("mine"));
        let wrong = override_from(&mut table, [(OsString::from("DRIFTLINE__KAFKA__GROUP"), odd())].into_iter());
        assert!(wrong.unwrap_err().is::<BadConfig>());
    }

    #[test]
    fn secrets_come_from_files_and_are_never_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hunter2\n").unwrap();
        let text =
            format!("[kafka.properties]\n\"sasl.password_file\" = {:?}\n\"sasl.mechanism\" = \"PLAIN\"", file.path());
        let mut table: Table = text.parse().unwrap();
        read_secrets(&mut table).unwrap();
        assert_eq!(table["kafka"]["properties"]["sasl.password"].as_str(), Some("hunter2"));
        redact(&mut table);
        assert_eq!(table["kafka"]["properties"]["sasl.password"].as_str(), Some("***"));
        assert_eq!(table["kafka"]["properties"]["sasl.mechanism"].as_str(), Some("PLAIN"));
    }

    #[test]
    fn a_secret_file_can_be_named_by_the_environment() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hunter2\n").unwrap();
        let mut table = Table::new();
        override_key(&mut table, "KAFKA__PROPERTIES__SASL_PASSWORD_FILE", &file.path().display().to_string());
        override_key(&mut table, "KAFKA__PROPERTIES__SASL_OAUTHBEARER_ASSERTION_FILE", "/a");
        read_secrets(&mut table).unwrap();
        let properties = validate(table).unwrap().kafka.properties;
        assert_eq!(properties["sasl.password"], "hunter2");
        assert_eq!(properties["sasl.oauthbearer.assertion.file"], "/a");
        assert_eq!(properties.len(), 2);
    }

    #[test]
    fn a_key_that_nobody_knows_is_a_fault_even_from_the_environment() {
        let mut table = Table::new();
        override_key(&mut table, "KAFKA__BROKER", "b:2");
        let fault = validate(table).unwrap_err().to_string();
        assert!(fault.contains("kafka.broker") && fault.contains("did you mean `brokers`"), "{fault}");
    }
}
