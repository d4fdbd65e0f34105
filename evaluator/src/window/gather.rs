//! What is worked out beside SQL, gathered for every group in one scan: the values of all rows, labelled or not.

use std::{collections::BTreeMap, sync::Arc};

use datafusion::{
    arrow::{
        array::{Array, AsArray, RecordBatch},
        compute::cast,
        datatypes::{DataType, Int64Type},
    },
    prelude::SessionContext,
};
use driftline_schemas::tables::{MetricRow, Task};

use super::{
    EvaluationContext,
    columns::{Columns, collect},
    estimate,
    groups::{Groups, Versions},
    inputs,
    judge::{self, Group, SAMPLING_RATE, group_of, grouping_sets, kept},
    lag,
};
use crate::{Error, estimate::arrival::Arrivals, metrics::binned::Limit};

/// The rows of a group.
#[derive(Debug, Clone, Default)]
pub(super) struct Gathered {
    /// How many.
    pub(super) n: i64,
    /// Of a binary model its scores, of a regression its predictions, as `flagged_values` by label and prediction; of a multiclass
    /// model `class_rows`. No bytes if nobody asks for them.
    pub(super) rows: Arc<[u8]>,
    /// How long labels took; none if rows know no times.
    pub(super) arrivals: Option<Arrivals>,
    /// Time of the newest label, microseconds.
    pub(super) newest_label: Option<i64>,
}

/// Gathers every group; that of all rows is there even if there are none. Where all rows are of one version, they are not
/// gathered again for it; and what nobody asks for is not read: values, where no estimate can be made and no label is waited for,
/// and times, where rows have none.
pub(super) async fn gather(
    session: &SessionContext,
    columns: &Columns,
    groups: &Groups,
    metrics: &[MetricRow],
    context: &EvaluationContext,
) -> Result<BTreeMap<Group, Gathered>, Error> {
    let mut gathered = BTreeMap::new();
    let values = wants_values(metrics, context).then(|| values(columns, context));
    let times = lag::inputs(columns, context);
    if values.is_some() || times.is_some() {
        // All groups' rows are looked at together, so they must fit together.
        let by_set = judge::groups_by_set(groups);
        let bytes = bytes_per_row(columns, context) * by_set.len() as u64;
        let limit = (!columns.budget().fits(bytes)).then(|| columns.budget().limit(by_set.iter().sum()));
        for batch in collect(session, &scan(columns, groups, values, times, limit.as_ref())).await? {
            read_groups(&batch, groups, &mut gathered)?;
        }
    }
    gathered.entry(Group::default()).or_default();
    Ok(gathered)
}

/// Whether the reference says anything of rows like these, or some have a label and others wait for one.
fn wants_values(metrics: &[MetricRow], context: &EvaluationContext) -> bool {
    let is_waiting = |row: &MetricRow| row.n_labelled > 0 && row.n_labelled < row.n;
    let can_estimate = context.reference.as_ref().is_some_and(|reference| estimate::usable(reference, context).is_ok());
    can_estimate || metrics.iter().any(is_waiting)
}

/// What is read of a row, and the call that gathers it.
fn values(columns: &Columns, context: &EvaluationContext) -> (Vec<String>, &'static str) {
    let mut inputs = vec![format!("{} IS NOT NULL AS is_labelled", columns.text("label"))];
    let call = match context.task {
        Task::Binary => {
            let positives = inputs::positives(context.positive_class.as_deref());
            inputs.push(format!("{} AS predicted", inputs::is_predicted(columns, &positives, context.threshold)));
            inputs.push(format!("{} AS value", inputs::score(columns, &positives)));
            "flagged_values(is_labelled, predicted, value"
        }
        Task::Multiclass => {
            inputs.push(format!("{} AS predicted", columns.text("prediction")));
            inputs.push(format!("{} AS probabilities", inputs::probabilities(columns)));
            "class_rows(predicted, probabilities, is_labelled"
        }
        Task::Regression => {
            inputs.push("FALSE AS predicted".to_owned());
            inputs.push(format!("{} AS value", inputs::number(columns, "prediction_value", "prediction")));
            "flagged_values(is_labelled, predicted, value"
        }
    };
    if columns.has(SAMPLING_RATE) {
        inputs.push(format!("{} AS {SAMPLING_RATE}", columns.double(SAMPLING_RATE)));
    }
    (inputs, call)
}

/// What a row of more classes than two takes: its class and weight, and the probabilities of sixteen.
pub(super) const CLASS_ROW_BYTES: u64 = 20 + 16 * 12;

/// What a row takes.
fn bytes_per_row(columns: &Columns, context: &EvaluationContext) -> u64 {
    match context.task {
        Task::Binary | Task::Regression => columns.bytes_per_number(),
        Task::Multiclass if columns.map("probabilities").is_none() => 0,
        Task::Multiclass => CLASS_ROW_BYTES,
    }
}

/// One query for all groups, as that of the metrics is.
fn scan(
    columns: &Columns,
    groups: &Groups,
    values: Option<(Vec<String>, &'static str)>,
    times: Option<[String; 3]>,
    limit: Option<&Limit>,
) -> String {
    let (mut inputs, mut outputs) = (Vec::new(), vec!["count(*) AS n".to_owned()]);
    if let Some((read, call)) = values {
        inputs.extend(read);
        outputs.push(format!("{} AS gathered", kept(columns, call, limit)));
    }
    if let Some(times) = times {
        inputs.extend(times);
        outputs.push("label_arrivals(lag, place) AS arrivals".to_owned());
        outputs.push("max(label_micros) AS newest_label".to_owned());
    }
    let mut keys: Vec<String> = Vec::new();
    if let (Versions::Several, Some(version)) = (&groups.versions, columns.version()) {
        keys.push("version".to_owned());
        inputs.push(format!("{version} AS version"));
    }
    let by_version = !keys.is_empty();
    for (i, segment) in groups.segments.iter().enumerate() {
        keys.push(format!("segment_{i}"));
        inputs.push(format!("{} AS segment_{i}", segment.value));
    }
    for key in &keys {
        outputs.push(format!("{key}, grouping({key}) AS all_{key}"));
    }
    let group_by = if keys.is_empty() {
        String::new()
    } else {
        format!("GROUP BY GROUPING SETS ({})", grouping_sets(&keys, by_version, None))
    };
    let from = format!("(SELECT {} FROM {})", inputs.join(", "), columns.valid_rows());
    format!("SELECT {} FROM {from} {group_by}", outputs.join(", "))
}

fn read_groups(batch: &RecordBatch, groups: &Groups, into: &mut BTreeMap<Group, Gathered>) -> Result<(), Error> {
    let counts = cast(batch.column(0), &DataType::Int64)?;
    let rows = batch.column_by_name("gathered").map(AsArray::as_binary::<i64>);
    for row in 0..batch.num_rows() {
        let Some(group) = group_of(batch, groups, row)? else { continue };
        let n = counts.as_primitive::<Int64Type>().value(row);
        let arrivals =
            batch.column_by_name("arrivals").map(|column| lag::arrivals(column.as_binary::<i64>().value(row)));
        let newest = batch.column_by_name("newest_label").map(AsArray::as_primitive::<Int64Type>);
        let gathered = Gathered {
            n,
            rows: rows.map(|rows| rows.value(row).into()).unwrap_or_default(),
            arrivals: arrivals.transpose()?,
            newest_label: newest.filter(|newest| newest.is_valid(row)).map(|newest| newest.value(row)),
        };
        into.insert(group, gathered);
    }
    Ok(())
}
