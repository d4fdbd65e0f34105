//! SQL scripts over the aggregate functions, on one and on many partitions.

use std::path::Path;

use arrow::util::display::{ArrayFormatter, FormatOptions};
use async_trait::async_trait;
use datafusion::{
    error::DataFusionError,
    prelude::{SessionConfig, SessionContext},
};
use driftline_evaluator::udaf;
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Runner};

struct Database(SessionContext);

#[async_trait]
impl AsyncDB for Database {
    type Error = DataFusionError;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, DataFusionError> {
        let frame = self.0.sql(sql).await?;
        let columns = frame.schema().fields().len();
        let batches = frame.collect().await?;
        if columns == 0 {
            return Ok(DBOutput::StatementComplete(0));
        }
        let options = FormatOptions::default().with_null("NULL");
        let mut rows = Vec::new();
        for batch in batches {
            let formatters: Vec<ArrayFormatter<'_>> =
                batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options)).collect::<Result<_, _>>()?;
            rows.extend((0..batch.num_rows()).map(|row| formatters.iter().map(|f| f.value(row).to_string()).collect()));
        }
        Ok(DBOutput::Rows { types: vec![DefaultColumnType::Any; columns], rows })
    }

    async fn shutdown(&mut self) {}

    fn engine_name(&self) -> &'static str {
        "datafusion"
    }
}

#[test]
fn scripts_say_the_same_on_one_and_on_many_partitions() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("slt");
    let mut scripts: Vec<_> =
        std::fs::read_dir(folder).expect("slt folder").map(|entry| entry.expect("readable").path()).collect();
    scripts.sort();
    assert!(!scripts.is_empty());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("runtime");
    for script in scripts {
        for partitions in [1, 8] {
            let mut runner = Runner::new(|| async {
                let config = SessionConfig::new().with_target_partitions(partitions).with_batch_size(3);
                let context = SessionContext::new_with_config(config);
                udaf::register(&context);
                Ok(Database(context))
            });
            let outcome = runtime.block_on(runner.run_file_async(&script));
            outcome.unwrap_or_else(|e| panic!("{} on {partitions} partitions: {e}", script.display()));
        }
    }
}
