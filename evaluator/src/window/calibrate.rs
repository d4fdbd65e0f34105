//! What a reference's labelled rows say of scores and predictions, for estimates.

use datafusion::{
    arrow::{
        array::{AsArray, RecordBatch},
        datatypes::{Float64Type, Int64Type},
    },
    prelude::SessionContext,
};
use driftline_schemas::tables::Task;

use super::{
    columns::{Columns, collect},
    gather, inputs,
    judge::{SAMPLING_RATE, kept},
};
use crate::{
    Error,
    estimate::{
        Calibration, Curve, LossBins,
        calibration::one_vs_rest,
        classes,
        loss::{self, Loss, LossBin},
    },
    metrics::Undefined,
    reference::Terms,
    udaf::rows::{class_rows, flagged_values},
};

/// Fits a calibration to the labelled rows of a table. What they do not suffice for is a calibration that says why.
pub(crate) async fn calibrate(
    session: &SessionContext,
    columns: &Columns,
    terms: &Terms,
) -> Result<Calibration, Error> {
    let fitted = match terms.task {
        Task::Binary => curve(session, columns, terms.positive_class.as_deref()).await?.map(Calibration::Binary),
        Task::Multiclass => curves(session, columns).await?.map(Calibration::Multiclass),
        Task::Regression => losses(session, columns).await?.map(Calibration::Regression),
    };
    Ok(fitted.unwrap_or_else(Calibration::None))
}

/// The state of an aggregate over some rows, as bytes; none if there are no rows.
async fn gathered(
    session: &SessionContext,
    columns: &Columns,
    columns_read: &str,
    (aggregate, bytes_per_row): (&str, u64),
) -> Result<Vec<u8>, Error> {
    let rate = if columns.has(SAMPLING_RATE) {
        format!(", {} AS {SAMPLING_RATE}", columns.double(SAMPLING_RATE))
    } else {
        String::new()
    };
    let limit = (!columns.budget().fits(bytes_per_row)).then(|| columns.budget().limit(1));
    let from = format!("(SELECT {columns_read}{rate} FROM {})", columns.valid_rows());
    let query =
        format!("SELECT {} AS gathered FROM {from} WHERE actual IS NOT NULL", kept(columns, aggregate, limit.as_ref()));
    let batches = collect(session, &query).await?;
    let one =
        batches.iter().find(|batch| batch.num_rows() > 0).map(|batch| batch.column(0).as_binary::<i64>().value(0));
    Ok(one.unwrap_or_default().to_vec())
}

async fn curve(
    session: &SessionContext,
    columns: &Columns,
    positive_class: Option<&str>,
) -> Result<Result<Curve, Undefined>, Error> {
    let positives = inputs::positives(positive_class);
    let (actual, score) = (inputs::is_positive(columns, "label", &positives), inputs::score(columns, &positives));
    let read = format!("{actual} AS actual, {score} AS score, FALSE AS unused");
    let bytes =
        gathered(session, columns, &read, ("flagged_values(unused, actual, score", columns.bytes_per_number())).await?;
    let rows = flagged_values(&bytes)?;
    Ok(Curve::fit(&rows.by_second(true), &rows.by_second(false)))
}

async fn curves(
    session: &SessionContext,
    columns: &Columns,
) -> Result<Result<std::collections::BTreeMap<String, Curve>, Undefined>, Error> {
    let read = format!(
        "{} AS actual, {} AS probabilities, TRUE AS is_labelled",
        columns.text("label"),
        inputs::probabilities(columns)
    );
    let aggregate = "class_rows(actual, probabilities, is_labelled";
    let rows = class_rows(&gathered(session, columns, &read, (aggregate, gather::CLASS_ROW_BYTES)).await?)?;
    // Sorted by class, as a list for each of them.
    let cells = rows.scored().saturating_mul(rows.classes().len() as u64);
    let fits = columns.budget().holds(cells.saturating_mul(classes::CELL_BYTES));
    Ok(if rows.is_counted_only() || !fits { Err(Undefined::BeyondMemory) } else { one_vs_rest(&rows) })
}

/// Two passes: where the bins end, then what the losses are in them.
async fn losses(session: &SessionContext, columns: &Columns) -> Result<Result<LossBins, Undefined>, Error> {
    let actual = inputs::number(columns, "label_value", "label");
    let predicted = inputs::number(columns, "prediction_value", "prediction");
    let read = format!("{actual} AS actual, {predicted} AS predicted, FALSE AS unused");
    let bytes =
        gathered(session, columns, &read, ("flagged_values(unused, unused, predicted", columns.bytes_per_number()))
            .await?;
    let predictions = flagged_values(&bytes)?.sample_by_first(false);
    let Some((first, last)) = predictions.as_ref().ends() else { return Ok(Err(Undefined::NoLabels)) };
    let edges = loss::edges(predictions.as_ref());
    let rate = columns.double(SAMPLING_RATE);
    let cases: Vec<String> =
        edges.iter().enumerate().map(|(at, edge)| format!("WHEN p <= CAST({edge:?} AS DOUBLE) THEN {at}")).collect();
    let bin =
        if cases.is_empty() { "0".to_owned() } else { format!("CASE {} ELSE {} END", cases.join(" "), edges.len()) };
    let query = format!(
        "SELECT CAST(b AS BIGINT) AS bin, exact_sum(w), exact_sum(w * w), exact_sum(w * e), exact_sum(w * e * e), \
         exact_sum(w * e * e * e * e) FROM (SELECT {bin} AS b, abs(p - y) AS e, \
         CASE WHEN rate > 0 AND rate < 1 THEN 1 / rate ELSE 1.0 END AS w FROM \
         (SELECT {predicted} AS p, {actual} AS y, {rate} AS rate FROM {}) \
         WHERE p IS NOT NULL AND y IS NOT NULL AND NOT isnan(p) AND NOT isnan(y)) GROUP BY b ORDER BY 1",
        columns.valid_rows()
    );
    let mut bins = Vec::new();
    for batch in collect(session, &query).await? {
        bins.extend(loss_bins(&batch));
    }
    let is_whole = bins.iter().map(|(bin, _)| *bin).eq(0..=edges.len() as i64);
    let bins: Vec<LossBin> = bins.into_iter().map(|(_, bin)| bin).collect();
    let is_finite = bins.iter().all(|bin| (bin.absolute.variance + bin.squared.variance).is_finite());
    Ok(if is_whole && is_finite { LossBins::new(edges, (first, last), bins) } else { Err(Undefined::OutOfDomain) })
}

fn loss_bins(batch: &RecordBatch) -> Vec<(i64, LossBin)> {
    let number = |column: usize, row: usize| batch.column(column).as_primitive::<Float64Type>().value(row);
    (0..batch.num_rows())
        .map(|row| {
            let (weight, squares) = (number(1, row), number(2, row));
            let rows = weight * (weight / squares);
            let bin = LossBin {
                rows,
                absolute: Loss::of_sums(weight, number(3, row), number(4, row), rows),
                squared: Loss::of_sums(weight, number(4, row), number(5, row), rows),
            };
            (batch.column(0).as_primitive::<Int64Type>().value(row), bin)
        })
        .collect()
}
