//! Takes a table's keys one by one, and collects every fault, each with its key.
use std::collections::{BTreeMap, BTreeSet};

use chrono_tz::Tz;
use toml::{Table, Value};

use super::{CostMatrix, Fault, RankingSpec, ReferenceSpec};
use crate::clock::{DAY, Micros};
use crate::window::{BASE_WINDOW, WindowLength};

/// Longest window of a fixed length: longer ones are slips of the pen, and must not leave the range of times.
const WINDOW_MAX: Micros = 366 * DAY;

/// The zone whose name is nearest to what was typed: without regard to case, or by its city alone.
fn nearest_zone(typed: &str) -> Option<&'static str> {
    let typed = typed.to_lowercase().replace(' ', "_");
    let distance = |name: &str| {
        let name = name.to_lowercase();
        let city = name.rsplit('/').next().unwrap_or(&name);
        strsim::damerau_levenshtein(&name, &typed).min(strsim::damerau_levenshtein(city, &typed))
    };
    let nearest = chrono_tz::TZ_VARIANTS.iter().map(|zone| (distance(zone.name()), zone.name())).min();
    nearest.filter(|(distance, _)| *distance <= typed.len() / 4).map(|(_, name)| name)
}

/// Whether it is an address that a browser opens, as far as its beginning tells.
pub(super) fn is_web(url: &str) -> bool {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(|c: char| c.is_whitespace() || c.is_control()))
}

/// Takes keys out of a table, one by one; what is left at the end is unknown.
pub(super) struct Reader {
    table: Table,
    path: String,
    faults: Vec<Fault>,
    known: Vec<String>,
}

impl Reader {
    pub(super) fn new(table: Table, path: String) -> Self {
        Self { table, path, faults: Vec::new(), known: Vec::new() }
    }

    pub(super) fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn fault(&mut self, key: &str, message: String) {
        let key = self.key(key);
        self.faults.push(Fault { key, message });
    }

    /// Whether a key was typed and has not been taken.
    pub(super) fn table_has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// A text that was typed and has not been taken, left where it is.
    pub(super) fn text_of(&self, key: &str) -> Option<String> {
        self.table.get(key).and_then(Value::as_str).map(str::to_owned)
    }

    pub(super) fn take(&mut self, key: &str) -> Option<Value> {
        self.known.push(key.to_owned());
        self.table.remove(key)
    }

    pub(super) fn wrong(&mut self, key: &str, wanted: &str, got: &Value) {
        self.fault(key, format!("must be {wanted}, not {}", describe(got)));
    }

    pub(super) fn section<T>(&mut self, key: &str, read: impl FnOnce(&mut Reader) -> T) -> T {
        let table = match self.take(key) {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(other) => {
                self.wrong(key, "a table", &other);
                Table::new()
            }
        };
        let path = self.key(key);
        let mut reader = Reader::new(table, path);
        let read = read(&mut reader);
        self.absorb(reader);
        read
    }

    /// Takes over the faults of a part that has been read.
    pub(super) fn absorb(&mut self, part: Reader) {
        self.faults.append(&mut part.finish());
    }

    pub(super) fn tables(&mut self, key: &str) -> Vec<Reader> {
        let values = match self.take(key) {
            None => Vec::new(),
            Some(Value::Array(values)) => values,
            Some(other) => {
                self.wrong(key, &format!("an array of tables ([[{}]])", self.key(key)), &other);
                Vec::new()
            }
        };
        let mut items = Vec::new();
        for (index, value) in values.into_iter().enumerate() {
            let path = format!("{}[{index}]", self.key(key));
            match value {
                Value::Table(table) => items.push(Reader::new(table, path)),
                other => self.wrong(&format!("{key}[{index}]"), "a table", &other),
            }
        }
        items
    }

    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        match self.take(key)? {
            Value::String(text) if text.is_empty() => {
                self.fault(key, "is empty".into());
                None
            }
            Value::String(text) => Some(text),
            // TOML has types of their own for what is plainly meant as text: `start = 2026-01-01T00:00:00Z`, `group = 7`.
            Value::Datetime(time) => Some(time.to_string()),
            Value::Integer(number) => Some(number.to_string()),
            other => {
                self.wrong(key, "a string", &other);
                None
            }
        }
    }

    pub(super) fn class(&mut self, key: &str) -> Option<String> {
        let text = match self.take(key)? {
            Value::String(text) => text,
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Boolean(flag) => flag.to_string(),
            other => {
                self.wrong(key, "a class: a string, number or boolean", &other);
                return None;
            }
        };
        Some(crate::canonical::canonical(&text).into_owned())
    }

    pub(super) fn boolean(&mut self, key: &str, default: bool) -> bool {
        match self.take(key) {
            None => default,
            Some(Value::Boolean(flag)) => flag,
            Some(other) => {
                self.wrong(key, "true or false", &other);
                default
            }
        }
    }

    pub(super) fn integer(&mut self, key: &str, default: i64) -> i64 {
        match self.take(key) {
            None => default,
            Some(Value::Integer(number)) => number,
            Some(other) => {
                self.wrong(key, "a whole number", &other);
                default
            }
        }
    }

    pub(super) fn float(&mut self, key: &str, default: f64) -> f64 {
        match self.take(key) {
            None => default,
            Some(Value::Integer(number)) => number as f64,
            Some(Value::Float(number)) if number.is_finite() => number,
            Some(other) => {
                self.wrong(key, "a finite number", &other);
                default
            }
        }
    }

    pub(super) fn fraction(&mut self, key: &str, default: f64) -> f64 {
        let value = match self.take(key) {
            None => return default,
            Some(Value::Float(number)) => Some(number),
            Some(Value::Integer(number)) => Some(number as f64),
            Some(Value::String(text)) => {
                text.trim().strip_suffix('%').and_then(|t| t.trim().parse::<f64>().ok()).map(|p| p / 100.0)
            }
            Some(_) => None,
        };
        match value {
            Some(value) if value.is_finite() && value >= 0.0 => value,
            _ => {
                self.fault(key, "must be a share like \"10%\" or 0.1".into());
                default
            }
        }
    }

    pub(super) fn duration(&mut self, key: &str, default: Micros) -> Micros {
        let Some(value) = self.take(key) else { return default };
        if let Value::String(text) = &value
            && let Ok(duration) = humantime::parse_duration(text)
            && let Ok(micros) = Micros::try_from(duration.as_micros())
        {
            return micros;
        }
        self.wrong(key, "a duration like \"5s\", \"1m\", \"12h\" or \"30d\"", &value);
        default
    }

    /// How long something is kept; `None`: for ever, which is what an absent key means too.
    pub(super) fn retention(&mut self, key: &str) -> Option<Micros> {
        let value = self.take(key)?;
        if let Value::String(text) = &value {
            if text == "forever" {
                return None;
            }
            if let Ok(duration) = humantime::parse_duration(text)
                && let Ok(micros) = Micros::try_from(duration.as_micros())
            {
                return Some(micros);
            }
        }
        self.wrong(key, "a duration like \"90d\", or \"forever\"", &value);
        None
    }

    pub(super) fn duration_up_to(&mut self, key: &str, default: Micros, most: Micros) -> Micros {
        let duration = self.duration(key, default);
        if duration > most {
            self.fault(key, format!("must be at most {}d", most / DAY));
        }
        duration.min(most)
    }

    pub(super) fn zone(&mut self, key: &str, name: &str) -> Option<Tz> {
        if let Ok(zone) = name.parse() {
            return Some(zone);
        }
        let hint = nearest_zone(name).map_or_else(
            || "such as \"Europe/Amsterdam\" or \"UTC\"".to_owned(),
            |nearest| format!("did you mean {nearest:?}?"),
        );
        self.fault(key, format!("{name:?} is no IANA time zone; {hint}"));
        None
    }

    pub(super) fn bytes(&mut self, key: &str, default: u64) -> u64 {
        let Some(value) = self.take(key) else { return default };
        match &value {
            Value::Integer(number) if *number >= 0 => return *number as u64,
            Value::String(text) => {
                if let Ok(size) = text.parse::<bytesize::ByteSize>() {
                    return size.as_u64();
                }
            }
            _ => {}
        }
        self.wrong(key, "a size like \"64MB\" or \"2GiB\"", &value);
        default
    }

    pub(super) fn list(&mut self, key: &str) -> Option<Vec<String>> {
        let value = self.take(key)?;
        if let Value::Array(values) = &value
            && let Some(texts) = values.iter().map(|v| v.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        {
            return Some(texts);
        }
        if let Value::String(text) = &value {
            return Some(text.split(',').map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()).collect());
        }
        self.wrong(key, "a list of strings", &value);
        None
    }

    pub(super) fn strings(&mut self, key: &str) -> BTreeMap<String, String> {
        let mut strings = BTreeMap::new();
        match self.take(key) {
            None => {}
            Some(Value::Table(table)) => {
                for (name, value) in table {
                    match value {
                        Value::String(text) => drop(strings.insert(name, text)),
                        Value::Integer(number) => drop(strings.insert(name, number.to_string())),
                        Value::Float(number) => drop(strings.insert(name, number.to_string())),
                        Value::Boolean(flag) => drop(strings.insert(name, flag.to_string())),
                        other => self.wrong(&format!("{key}.{name:?}"), "a string, number or boolean", &other),
                    }
                }
            }
            Some(other) => self.wrong(key, "a table", &other),
        }
        strings
    }

    pub(super) fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(key)?;
        let found = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        if found.is_none() {
            let names: Vec<_> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
            self.fault(key, format!("{text:?} is none of {}", names.join(", ")));
        }
        found
    }

    pub(super) fn window_length(&mut self, key: &str) -> Option<WindowLength> {
        let text = self.text(key)?;
        match text.as_str() {
            "day" => return Some(WindowLength::Day),
            "week" => return Some(WindowLength::Week),
            "month" => return Some(WindowLength::Month),
            _ => {}
        }
        let micros = humantime::parse_duration(&text).ok().and_then(|d| Micros::try_from(d.as_micros()).ok());
        // humantime's month is a twelfth of 365.25 days.
        let is_month =
            text.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ').to_lowercase().starts_with("month")
                || text.ends_with('M');
        match micros {
            _ if is_month => {
                self.fault(key, format!("{text:?} has no fixed length; for calendar months set \"month\""));
            }
            Some(micros) if micros > WINDOW_MAX => self.fault(key, format!("{text:?} is longer than 366d")),
            Some(micros) if micros > 0 && micros % BASE_WINDOW == 0 => return Some(WindowLength::Fixed(micros)),
            Some(_) => self.fault(key, format!("{text:?} is no whole number of minutes")),
            None => {
                let near = ["day", "week", "month"].into_iter().find(|name| is_near(name, &text.to_lowercase()));
                let hint = near.map_or_else(String::new, |name| format!("; did you mean {name:?}?"));
                let wanted = "no duration like \"1h\", nor \"day\", \"week\" or \"month\"";
                self.fault(key, format!("{text:?} is {wanted}{hint}"));
            }
        }
        None
    }

    pub(super) fn segments(&mut self, key: &str) -> Option<Vec<Vec<String>>> {
        let value = self.take(key)?;
        let segments = value.as_array().and_then(|values| {
            values
                .iter()
                .map(|value| match value {
                    Value::String(name) => Some(vec![name.clone()]),
                    Value::Array(names) if !names.is_empty() => {
                        names.iter().map(|name| name.as_str().map(str::to_owned)).collect()
                    }
                    _ => None,
                })
                .collect::<Option<Vec<Vec<String>>>>()
        });
        match &segments {
            None => self.wrong(key, "a list of tag names, `features.<name>`, or lists of these", &value),
            Some(segments) => {
                if let Some(message) = fault_of_segments(segments) {
                    self.fault(key, message);
                }
            }
        }
        segments
    }

    /// What the outcomes of a binary decision are worth; each has to be said, for a zero that was forgotten would not show.
    pub(super) fn cost(&mut self, key: &str) -> Option<CostMatrix> {
        let table = match self.take(key)? {
            Value::Table(table) => table,
            other => {
                self.wrong(key, "a table of tp, fp, fn and tn", &other);
                return None;
            }
        };
        let mut part = Reader::new(table, self.key(key));
        let mut worth = |name: &str| {
            if !part.table.contains_key(name) {
                part.fault(name, "is missing: what is such an outcome worth?".into());
            }
            part.float(name, 0.0)
        };
        let cost = CostMatrix { tp: worth("tp"), fp: worth("fp"), missed: worth("fn"), tn: worth("tn") };
        self.absorb(part);
        Some(cost)
    }

    pub(super) fn ranking(&mut self, key: &str) -> Option<RankingSpec> {
        let table = match self.take(key)? {
            Value::Table(table) => table,
            other => {
                self.wrong(key, "a table like { group = \"query_id\", k = 10 }", &other);
                return None;
            }
        };
        let mut part = Reader::new(table, self.key(key));
        if !part.table.contains_key("group") {
            part.fault("group", "is missing: which tag tells queries apart?".into());
        }
        let group = part.text("group");
        let k = part.integer("k", 10);
        if !(1..=1000).contains(&k) {
            part.fault("k", "must be 1 to 1000".into());
        }
        self.absorb(part);
        Some(RankingSpec { group: group?, k: k.clamp(1, 1000) as usize })
    }

    pub(super) fn reference(&mut self, key: &str) -> Option<ReferenceSpec> {
        match self.take(key)? {
            Value::String(url) => Some(ReferenceSpec::File(url)),
            Value::Table(table) => {
                let path = self.key(key);
                let mut reader = Reader::new(table, path);
                let spec = ReferenceSpec::Past {
                    last: reader.duration("last", 7 * DAY),
                    offset: reader.duration("offset", 7 * DAY),
                    same_hour_of_week: reader.boolean("same_hour_of_week", false),
                };
                self.absorb(reader);
                Some(spec)
            }
            other => {
                self.wrong(key, "a file, or { last = \"7d\", offset = \"7d\" }", &other);
                None
            }
        }
    }

    /// All faults, with those for what nobody asked for, each with the nearest known key.
    pub(super) fn finish(mut self) -> Vec<Fault> {
        for key in self.table.keys().cloned().collect::<Vec<_>>() {
            let nearest = self
                .known
                .iter()
                .map(|known| (strsim::damerau_levenshtein(known, &key), known))
                .min()
                .filter(|(distance, _)| *distance <= 1 + key.len() / 3);
            let message = match nearest {
                Some((_, known)) => format!("is not a known key; did you mean `{known}`?"),
                None => format!("is not a known key here; known are {}", self.known.join(", ")),
            };
            self.fault(&key, message);
        }
        self.faults
    }
}

/// What is odd about segments: such a one would have no rows, or the same as another, and nobody would know why.
fn fault_of_segments(segments: &[Vec<String>]) -> Option<String> {
    let shown = |names: &[String]| match names {
        [name] => format!("{name:?}"),
        names => format!("{names:?}"),
    };
    let mut seen = BTreeSet::new();
    for (at, names) in segments.iter().enumerate() {
        if names.iter().any(|name| is_bare(name)) {
            let place = match at + 1 {
                1 => "1st".to_owned(),
                2 => "2nd".to_owned(),
                3 => "3rd".to_owned(),
                place => format!("{place}th"),
            };
            return Some(format!("names nothing in its {place} entry"));
        }
        let distinct: BTreeSet<&String> = names.iter().collect();
        if distinct.len() < names.len() {
            let twice = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name));
            return twice.map(|(_, name)| format!("crosses {name:?} with itself"));
        }
        if !seen.insert(distinct) {
            return Some(format!("names {} twice", shown(names)));
        }
    }
    None
}

/// Whether nothing is left of a segment's name without its prefix.
fn is_bare(name: &str) -> bool {
    ["features.", "tags."].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name).trim().is_empty()
}

fn is_near(name: &str, typed: &str) -> bool {
    strsim::damerau_levenshtein(name, typed) <= 2
}

fn describe(value: &Value) -> String {
    match value {
        Value::String(text) => format!("the string {text:?}"),
        Value::Integer(number) => format!("the number {number}"),
        Value::Float(number) => format!("the number {number}"),
        Value::Boolean(flag) => format!("{flag}"),
        Value::Datetime(time) => format!("the time {time}"),
        Value::Array(_) => "an array".into(),
        Value::Table(_) => "a table".into(),
    }
}
