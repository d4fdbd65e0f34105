//! Rows whose columns differ from object to object: joined by name, what is missing is null, what is too much goes into JSON.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Float64Builder, RecordBatch, StringArray, StringBuilder, UInt32Array,
    new_null_array,
};
use arrow::compute::{concat, take};
use arrow::datatypes::{DataType, Field, Float64Type, Schema};
use driftline_schemas::history::{FEATURE_PREFIX, FEATURES_JSON, TAG_PREFIX, TEXT_SUFFIX};

use crate::error::Error;

/// Tags beyond the cap, as JSON.
pub(crate) const TAGS_JSON: &str = "tags_json";

/// Columns by name, all of the same length.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wide {
    /// Number of rows.
    pub(crate) rows: usize,
    /// The columns.
    pub(crate) columns: BTreeMap<String, ArrayRef>,
}

impl Wide {
    /// The columns of a batch.
    pub(crate) fn from_batch(batch: &RecordBatch) -> Self {
        let names = batch.schema().fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>();
        Self { rows: batch.num_rows(), columns: names.into_iter().zip(batch.columns().iter().cloned()).collect() }
    }

    /// Sees to it that all of them together have at most so many columns of a prefix as [`Wide::cap`] would keep, and moves the rest
    /// into JSON already: under each other they would be as many columns as there are names, each as long as all rows (**B1**).
    ///
    /// What `cap` makes of the rows later is the same: it looks into the JSON too, and takes back what there is room for.
    pub(crate) fn narrow(all: &mut [Self], prefix: &str, json: &str, kept: Kept<'_>) {
        let with_prefix = |name: &&String| name.starts_with(prefix);
        let names: BTreeSet<String> =
            all.iter().flat_map(|wide| wide.columns.keys()).filter(with_prefix).cloned().collect();
        let Some(keeps) = kept.of(names.iter().map(String::as_str)) else { return };
        for wide in all {
            let goes = |name: &&String| name.starts_with(prefix) && !keeps.contains(name.as_str());
            let names: Vec<String> = wide.columns.keys().filter(goes).cloned().collect();
            if !names.is_empty() {
                wide.spill(prefix, json, &names);
            }
        }
    }

    /// All rows under each other. Columns of one name but two types can only be a feature `x_text` with numbers beside a
    /// feature `x` with text: the numbers go into `features_json`.
    pub(crate) fn concat(mut all: Vec<Self>) -> Result<Self, Error> {
        let mut types: BTreeMap<String, DataType> = BTreeMap::new();
        let mut clashes: BTreeSet<String> = BTreeSet::new();
        for wide in &all {
            for (name, column) in &wide.columns {
                if let Some(known) = types.insert(name.clone(), column.data_type().clone())
                    && known != *column.data_type()
                {
                    clashes.insert(name.clone());
                }
            }
        }
        for name in clashes {
            types.insert(name.clone(), DataType::Utf8);
            for wide in &mut all {
                if wide.columns.get(&name).is_some_and(|column| *column.data_type() == DataType::Float64) {
                    wide.spill(FEATURE_PREFIX, FEATURES_JSON, std::slice::from_ref(&name));
                    types.insert(FEATURES_JSON.to_owned(), DataType::Utf8);
                }
            }
        }
        let mut columns = BTreeMap::new();
        for (name, kind) in types {
            let pieces: Vec<ArrayRef> = all
                .iter()
                .map(|wide| wide.columns.get(&name).cloned().unwrap_or_else(|| new_null_array(&kind, wide.rows)))
                .collect();
            let pieces: Vec<&dyn Array> = pieces.iter().map(AsRef::as_ref).collect();
            columns.insert(name, concat(&pieces)?);
        }
        Ok(Self { rows: all.iter().map(|wide| wide.rows).sum(), columns })
    }

    /// The rows at these places, in this order.
    pub(crate) fn take(&self, rows: &UInt32Array) -> Result<Self, Error> {
        let columns = self.columns.iter().map(|(name, column)| Ok((name.clone(), take(column, rows, None)?)));
        Ok(Self { rows: rows.len(), columns: columns.collect::<Result<_, Error>>()? })
    }

    /// Keeps the first `max` columns of a prefix, those of `segments` before all others and each in the order of their names,
    /// and moves the rest into JSON.
    ///
    /// The outcome is a function of the rows alone (**T4**): it is by name, not by the order in which columns came; a
    /// column that has lost all its values to copies which do not stand takes no place; and what had gone into JSON for
    /// want of room comes back when there is room.
    pub(crate) fn cap(&mut self, prefix: &str, json: &str, max: usize, segments: &BTreeSet<String>) {
        self.columns.retain(|name, column| !name.starts_with(prefix) || column.null_count() < column.len());
        let mut kinds: BTreeMap<String, DataType> = BTreeMap::new();
        for (name, column) in self.columns.iter().filter(|(name, _)| name.starts_with(prefix)) {
            kinds.insert(name.clone(), column.data_type().clone());
        }
        if kinds.len() <= max && !self.columns.contains_key(json) {
            return;
        }
        let mut objects = self.take_objects(json);
        for (key, value) in objects.iter().flatten() {
            // Where a text and a number would share a column, the text has it.
            if value.is_string() {
                kinds.insert(text_column(prefix, key), DataType::Utf8);
            } else {
                kinds.entry(format!("{prefix}{key}")).or_insert(DataType::Float64);
            }
        }
        let (mut kinds, others): (Vec<_>, Vec<_>) = kinds.into_iter().partition(|(name, _)| segments.contains(name));
        kinds.extend(others);
        for (at, (name, kind)) in kinds.iter().enumerate() {
            let stays = at < max && self.columns.get(name).is_none_or(|column| column.data_type() == kind);
            if !stays && let Some(column) = self.columns.remove(name) {
                put_into(&mut objects, &key_of(prefix, name, &column), &column);
            }
        }
        for (name, kind) in kinds.into_iter().take(max) {
            let known = self.columns.remove(&name);
            self.columns.insert(name.clone(), take_from(&mut objects, prefix, &name, &kind, known.as_ref()));
        }
        self.put_objects(json, &objects);
    }

    /// Moves columns into JSON.
    fn spill(&mut self, prefix: &str, json: &str, names: &[String]) {
        let mut objects = self.take_objects(json);
        for name in names {
            if let Some(column) = self.columns.remove(name) {
                put_into(&mut objects, &key_of(prefix, name, &column), &column);
            }
        }
        self.put_objects(json, &objects);
    }

    fn take_objects(&mut self, json: &str) -> Vec<Object> {
        let column = self.columns.remove(json);
        let texts: Option<&StringArray> = column.as_ref().and_then(|column| column.as_string_opt());
        let text = |row: usize| texts.filter(|texts| texts.is_valid(row)).map(|texts| texts.value(row));
        (0..self.rows)
            .map(|row| text(row).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default())
            .collect()
    }

    fn put_objects(&mut self, json: &str, objects: &[Object]) {
        let text = |object: &Object| serde_json::to_string(object).expect("keys are strings and numbers are finite");
        let texts: StringArray = objects.iter().map(|object| (!object.is_empty()).then(|| text(object))).collect();
        self.columns.insert(json.to_owned(), Arc::new(texts));
    }

    /// As a batch: the named columns first, the others after them by name. Columns that are null throughout are left out
    /// unless they are named.
    pub(crate) fn into_batch(mut self, first: &[&str]) -> Result<RecordBatch, Error> {
        let mut fields = Vec::new();
        let mut arrays = Vec::new();
        for name in first {
            let column = self.columns.remove(*name).ok_or_else(|| Error::Corrupt(format!("no column `{name}`")))?;
            fields.push(Field::new(*name, column.data_type().clone(), true));
            arrays.push(column);
        }
        for (name, column) in self.columns {
            if column.null_count() < column.len() {
                fields.push(Field::new(name, column.data_type().clone(), true));
                arrays.push(column);
            }
        }
        Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?)
    }
}

/// Which columns of a prefix stay columns: so many, those of segments before all others, each in the order of their names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kept<'a> {
    pub(crate) max: usize,
    pub(crate) segments: &'a BTreeSet<String>,
}

impl Kept<'_> {
    /// Those that stay; `None` if all do.
    fn of<'n>(&self, names: impl Iterator<Item = &'n str>) -> Option<BTreeSet<&'n str>> {
        let names: BTreeSet<&str> = names.collect();
        if names.len() <= self.max {
            return None;
        }
        let (segments, others): (Vec<&str>, Vec<&str>) =
            names.into_iter().partition(|name| self.segments.contains(*name));
        Some(segments.into_iter().chain(others).take(self.max).collect())
    }
}

/// The JSON of one row, its keys in order: equal contents are equal bytes.
type Object = BTreeMap<String, serde_json::Value>;

/// In JSON a feature has its own name, and its value its own type.
fn key_of(prefix: &str, column_name: &str, column: &ArrayRef) -> String {
    let name = &column_name[prefix.len()..];
    let is_text_of_feature = prefix == FEATURE_PREFIX && *column.data_type() == DataType::Utf8;
    name.strip_suffix(TEXT_SUFFIX).filter(|_| is_text_of_feature).unwrap_or(name).to_owned()
}

fn text_column(prefix: &str, key: &str) -> String {
    let suffix = if prefix == FEATURE_PREFIX { TEXT_SUFFIX } else { "" };
    format!("{prefix}{key}{suffix}")
}

fn put_into(objects: &mut [Object], key: &str, column: &ArrayRef) {
    for (row, object) in objects.iter_mut().enumerate().filter(|(row, _)| column.is_valid(*row)) {
        let value = match column.as_primitive_opt::<Float64Type>() {
            Some(numbers) => numbers.value(row).into(),
            None => column.as_string::<i32>().value(row).into(),
        };
        object.insert(key.to_owned(), value);
    }
}

/// A column of what it had and of what the objects hold of it, which they no longer do then.
fn take_from(objects: &mut [Object], prefix: &str, name: &str, kind: &DataType, known: Option<&ArrayRef>) -> ArrayRef {
    let known = known.cloned().unwrap_or_else(|| new_null_array(kind, objects.len()));
    let key = key_of(prefix, name, &known);
    let is_text = *kind == DataType::Utf8;
    let mut take = |row: usize| {
        let is_its = objects[row].get(&key).is_some_and(|value| value.is_string() == is_text);
        if is_its { objects[row].remove(&key) } else { None }
    };
    if is_text {
        let known = known.as_string::<i32>();
        let text = |row: usize| take(row).and_then(|value| value.as_str().map(str::to_owned));
        let taken: Vec<Option<String>> = (0..known.len()).map(text).collect();
        return Arc::new(
            known.iter().zip(&taken).map(|(known, taken)| known.or(taken.as_deref())).collect::<StringArray>(),
        );
    }
    let known = known.as_primitive::<Float64Type>();
    let number = |row: usize| take(row).and_then(|value| value.as_f64());
    let taken: Vec<Option<f64>> = (0..known.len()).map(number).collect();
    Arc::new(known.iter().zip(taken).map(|(known, taken)| known.or(taken)).collect::<Float64Array>())
}

/// A raw object's maps of features and tags as columns: `feature_<name>`, `feature_<name>_text`, `tag_<name>`. Names beyond those
/// that are kept go into JSON at once: a column for each would be as long as the object, whatever it holds (**B1**).
pub(crate) fn spread(features: Option<&ArrayRef>, tags: Option<&ArrayRef>, rows: usize, kept: Kept<'_>) -> Wide {
    let mut columns: BTreeMap<String, ArrayRef> = BTreeMap::new();
    if let Some(map) = tags.and_then(|column| column.as_map_opt()) {
        columns.append(&mut spread_tags(map, rows, kept).columns);
    }
    if let Some(map) = features.and_then(|column| column.as_map_opt()) {
        columns.append(&mut spread_features(map, rows, kept).columns);
    }
    Wide { rows, columns }
}

fn spread_tags(map: &arrow::array::MapArray, rows: usize, kept: Kept<'_>) -> Wide {
    let (names, values) = (map.keys().as_string::<i32>(), map.values().as_string::<i32>());
    let all: BTreeSet<String> = names.iter().flatten().map(|name| format!("{TAG_PREFIX}{name}")).collect();
    let keeps = kept.of(all.iter().map(String::as_str));
    let is_kept =
        |name: &str| keeps.as_ref().is_none_or(|keeps| keeps.contains(format!("{TAG_PREFIX}{name}").as_str()));
    let mut texts: HashMap<String, Padded<StringBuilder>> = HashMap::new();
    let mut objects = vec![Object::new(); if keeps.is_some() { rows } else { 0 }];
    #[allow(clippy::needless_range_loop)] // `objects` is empty where everything is kept
    for row in 0..rows {
        for at in entries(map, row).filter(|at| values.is_valid(*at)) {
            let (name, value) = (names.value(at), values.value(at));
            if is_kept(name) {
                slot(&mut texts, name).put(row, |builder| builder.append_value(value));
            } else {
                objects[row].entry(name.to_owned()).or_insert_with(|| value.into());
            }
        }
    }
    let named = |(name, padded): (String, Padded<StringBuilder>)| (format!("{TAG_PREFIX}{name}"), padded.finish(rows));
    let mut wide = Wide { rows, columns: texts.into_iter().map(named).collect() };
    if keeps.is_some() {
        wide.put_objects(TAGS_JSON, &objects);
    }
    wide
}

fn spread_features(map: &arrow::array::MapArray, rows: usize, kept: Kept<'_>) -> Wide {
    let (names, values) = (map.keys().as_string::<i32>(), map.values().as_struct());
    let (number, text) = (values.column(0).as_primitive::<Float64Type>(), values.column(1).as_string::<i32>());
    let number_name = |name: &str| format!("{FEATURE_PREFIX}{name}");
    let text_name = |name: &str| format!("{FEATURE_PREFIX}{name}{TEXT_SUFFIX}");
    let mut all: BTreeSet<String> = BTreeSet::new();
    for at in 0..map.keys().len() {
        if number.is_valid(at) {
            all.insert(number_name(names.value(at)));
        }
        if text.is_valid(at) {
            all.insert(text_name(names.value(at)));
        }
    }
    let keeps = kept.of(all.iter().map(String::as_str));
    let is_kept = |column: String| keeps.as_ref().is_none_or(|keeps| keeps.contains(column.as_str()));
    let mut numbers: HashMap<String, Padded<Float64Builder>> = HashMap::new();
    let mut texts: HashMap<String, Padded<StringBuilder>> = HashMap::new();
    let mut objects = vec![Object::new(); if keeps.is_some() { rows } else { 0 }];
    #[allow(clippy::needless_range_loop)] // `objects` is empty where everything is kept
    for row in 0..rows {
        for at in entries(map, row) {
            let name = names.value(at);
            if number.is_valid(at) {
                if is_kept(number_name(name)) {
                    slot(&mut numbers, name).put(row, |builder| builder.append_value(number.value(at)));
                } else {
                    objects[row].entry(name.to_owned()).or_insert_with(|| number.value(at).into());
                }
            }
            if text.is_valid(at) {
                if is_kept(text_name(name)) {
                    slot(&mut texts, name).put(row, |builder| builder.append_value(text.value(at)));
                } else {
                    objects[row].entry(name.to_owned()).or_insert_with(|| text.value(at).into());
                }
            }
        }
    }
    let mut wide = Wide { rows, columns: BTreeMap::new() };
    wide.columns.extend(texts.into_iter().map(|(name, padded)| (text_name(&name), padded.finish(rows))));
    let mut clashing = Wide { rows, columns: BTreeMap::new() };
    for (name, padded) in numbers {
        let name = number_name(&name);
        let target = if wide.columns.contains_key(&name) { &mut clashing.columns } else { &mut wide.columns };
        target.insert(name, padded.finish(rows));
    }
    if keeps.is_some() {
        clashing.put_objects(FEATURES_JSON, &objects);
    }
    if !clashing.columns.is_empty() {
        let names: Vec<String> = clashing.columns.keys().filter(|name| *name != FEATURES_JSON).cloned().collect();
        clashing.spill(FEATURE_PREFIX, FEATURES_JSON, &names);
        wide.columns.append(&mut clashing.columns);
    }
    wide
}

fn entries(map: &arrow::array::MapArray, row: usize) -> std::ops::Range<usize> {
    if map.is_null(row) {
        return 0..0;
    }
    let offsets = map.value_offsets();
    offsets[row] as usize..offsets[row + 1] as usize
}

/// A builder that is as long as the last row that had a value.
struct Padded<B> {
    builder: B,
    length: usize,
}

trait Nullable {
    fn append_null(&mut self);
    fn length(&self) -> usize;
    fn array(&mut self) -> ArrayRef;
}

impl Nullable for Float64Builder {
    fn append_null(&mut self) {
        Float64Builder::append_null(self);
    }
    fn length(&self) -> usize {
        arrow::array::ArrayBuilder::len(self)
    }
    fn array(&mut self) -> ArrayRef {
        Arc::new(self.finish())
    }
}

impl Nullable for StringBuilder {
    fn append_null(&mut self) {
        StringBuilder::append_null(self);
    }
    fn length(&self) -> usize {
        arrow::array::ArrayBuilder::len(self)
    }
    fn array(&mut self) -> ArrayRef {
        Arc::new(self.finish())
    }
}

impl<B: Nullable> Padded<B> {
    /// Puts a value into a row; a repeated key of one map keeps its first value.
    fn put(&mut self, row: usize, append: impl FnOnce(&mut B)) {
        if self.length > row {
            return;
        }
        while self.length < row {
            self.builder.append_null();
            self.length += 1;
        }
        append(&mut self.builder);
        self.length = self.builder.length();
    }

    fn finish(mut self, rows: usize) -> ArrayRef {
        while self.length < rows {
            self.builder.append_null();
            self.length += 1;
        }
        self.builder.array()
    }
}

/// The builder of a name; the name is copied only when it is new.
fn slot<'a, B: Default>(slots: &'a mut HashMap<String, Padded<B>>, name: &str) -> &'a mut Padded<B> {
    if !slots.contains_key(name) {
        slots.insert(name.to_owned(), Padded { builder: B::default(), length: 0 });
    }
    slots.get_mut(name).expect("it was inserted where it was missing")
}

#[cfg(test)]
mod tests {
    use arrow::array::{MapBuilder, MapFieldNames, StringBuilder};

    use super::*;

    /// Tags of so many rows, each row with names that no other has.
    fn random_tags(first: usize, rows: usize, names_a_row: usize) -> ArrayRef {
        let mut map = MapBuilder::new(None::<MapFieldNames>, StringBuilder::new(), StringBuilder::new());
        for row in first..first + rows {
            for n in 0..names_a_row {
                map.keys().append_value(format!("{row:06}-{n}"));
                map.values().append_value("x");
            }
            map.append(true).unwrap();
        }
        Arc::new(map.finish())
    }

    fn columns_of(wide: &Wide) -> usize {
        wide.columns.keys().filter(|name| name.starts_with(TAG_PREFIX)).count()
    }

    fn values_of(wide: &mut Wide) -> usize {
        let columns = wide.columns.iter().filter(|(name, _)| name.starts_with(TAG_PREFIX));
        let in_columns: usize = columns.map(|(_, column)| column.len() - column.null_count()).sum();
        in_columns + wide.take_objects(TAGS_JSON).iter().map(BTreeMap::len).sum::<usize>()
    }

    /// B1: names that never come again make no more columns than are kept, not of one object and not of all together; and no value
    /// is lost.
    #[test]
    fn b1_random_names_make_no_more_columns_than_are_kept() {
        let segments = BTreeSet::from([format!("{TAG_PREFIX}000301-1")]);
        let kept = Kept { max: 5, segments: &segments };
        let mut all: Vec<Wide> =
            (0..10).map(|n| spread(None, Some(&random_tags(n * 100, 100, 3)), 100, kept)).collect();
        assert!(all.iter().all(|wide| columns_of(wide) == 5), "of one object");
        Wide::narrow(&mut all, TAG_PREFIX, TAGS_JSON, kept);
        let mut together = Wide::concat(all).unwrap();
        let names: Vec<&String> = together.columns.keys().filter(|name| name.starts_with(TAG_PREFIX)).collect();
        assert_eq!(names, ["tag_000000-0", "tag_000000-1", "tag_000000-2", "tag_000001-0", "tag_000301-1"]);
        assert_eq!(values_of(&mut together), 10 * 100 * 3);
    }
}
