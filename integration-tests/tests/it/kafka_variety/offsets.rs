//! Offsets that go: compaction, which is refused, and retention that was shorter than an outage, which a person has to accept.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use driftline_integration_tests::kafka::{Broker, Topics, until_answered};
use rdkafka::TopicPartitionList;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::topic_partition_list::TopicPartitionListElem;

use super::{
    CATCH_UP, Joined, MODEL, PIPELINE, account, labels, predictions, producer, publish, readyz, send, terms,
    until_joined,
};
use crate::sandbox::Sandbox;

#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_topic_is_refused() -> Result<()> {
    let Some(broker) = Broker::real("a_compacted_topic_is_refused")? else { return Ok(()) };
    for policy in ["compact", "compact,delete"] {
        let topics = Topics::unique();
        broker.create_topic(&topics.predictions, 1).await?;
        broker.create_topic_with(&topics.labels, 1, &[("cleanup.policy", policy)]).await?;
        let sandbox = Sandbox::new(broker.brokers(), &topics, MODEL)?;
        for (arguments, code) in [(&["check"][..], 3), (&CATCH_UP, 1), (&["run"], 1)] {
            let said = sandbox.run(arguments).await?;
            let text = format!("{}{}", said.stdout, said.stderr);
            ensure!(said.code == Some(code), "driftline {arguments:?} ended with {:?}:\n{text}", said.code);
            for words in [topics.labels.as_str(), "cleanup.policy", "compact", "cleanup.policy=delete"] {
                ensure!(text.contains(words), "driftline {arguments:?} does not say {words}:\n{text}");
            }
        }
    }
    Ok(())
}

/// What `kafka-delete-records` does, and retention in its time.
async fn delete_records(broker: &Broker, topic: &str, before: i64) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = broker.client().create().context("create the admin client")?;
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(topic, 0, rdkafka::Offset::Offset(before))?;
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
    until_answered(&format!("delete the records of {topic}"), async || {
        let deleted = admin.delete_records(&offsets, &options).await?;
        deleted.elements().iter().try_for_each(TopicPartitionListElem::error)
    })
    .await?;
    ensure!(broker.watermarks(topic, 0)?.0 == before, "the broker has not deleted them");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn c1_offsets_that_the_broker_has_lost_halt_until_a_person_gives_them_up() -> Result<()> {
    let Some(broker) = Broker::real("c1_offsets_that_the_broker_has_lost_halt_until_a_person_gives_them_up")? else {
        return Ok(());
    };
    let topics = Topics::unique();
    for topic in [&topics.predictions, &topics.labels] {
        broker.create_topic(topic, 1).await?;
    }
    publish(&broker, &topics, "kept", 10).await?;
    let sandbox = Sandbox::new(broker.brokers(), &topics, MODEL)?;
    sandbox.catch_up().await?;
    Joined::default().and(10).check(&sandbox).await?;

    // An outage: 8 predictions go before they are read, 5 stay.
    let plain = producer(&broker, &[])?;
    send(&plain, &topics.predictions, &predictions("lost", 8)).await?;
    send(&plain, &topics.predictions, &predictions("left", 5)).await?;
    send(&plain, &topics.labels, &labels("left", 5)).await?;
    delete_records(&broker, &topics.predictions, 18).await?;

    let accept = ["collector", "accept-gap", "--topic", &topics.predictions, "--partition", "0"];
    let command = format!("driftline {}", accept.join(" "));
    let said = sandbox.run(&CATCH_UP).await?;
    ensure!(said.code == Some(1), "it ended with {:?}: {}", said.code, said.stderr);
    for words in ["offsets 10 to 18", &topics.predictions, "retention", &command] {
        ensure!(said.stderr.contains(words), "it does not say {words}:\n{}", said.stderr);
    }
    eprintln!("{}", said.stderr.lines().rfind(|line| line.contains("accept-gap")).unwrap_or_default());
    // Labels are read meanwhile: one partition that halts stops no other.
    let found = account(&sandbox, &topics.labels).await?;
    ensure!(found == terms(&[("records", 15), ("accepted", 15)]) || unapplied(&found) == 5, "{found:?}");

    // A pipeline that runs is red, and goes on by itself once the gap is accepted.
    let process = sandbox.spawn("pipeline", &PIPELINE)?;
    readyz(&process, 503, &["offsets 10 to 18", &command]).await?;
    let said = sandbox.succeed(&accept).await?;
    ensure!(said.contains("offsets 10 to 17") && said.contains("8 offsets"), "{said}");
    readyz(&process, 200, &[]).await?;
    let joined = Joined::default().and(10).and(5);
    until_joined(&sandbox, &process, joined).await?;
    process.terminate().await?;
    let found = account(&sandbox, &topics.predictions).await?;
    ensure!(found == terms(&[("records", 15), ("gaps", 8), ("accepted", 15)]), "{found:?}");

    // There is nothing more to give up, and nothing that a run without news would change.
    let again = sandbox.run(&accept).await?;
    ensure!(again.code == Some(1) && again.stderr.contains("has no gap"), "{again:?}");
    sandbox.catch_up().await?;
    joined.check(&sandbox).await
}

/// As when a pipeline reads more slowly than retention deletes: the client itself must not jump over what is gone.
#[tokio::test(flavor = "multi_thread")]
async fn c1_offsets_that_are_lost_under_a_running_pipeline_halt_it() -> Result<()> {
    let Some(broker) = Broker::real("c1_offsets_that_are_lost_under_a_running_pipeline_halt_it")? else {
        return Ok(());
    };
    let topics = Topics::unique();
    for topic in [&topics.predictions, &topics.labels] {
        broker.create_topic(topic, 1).await?;
    }
    publish(&broker, &topics, "kept", 10).await?;
    let sandbox = Sandbox::new(broker.brokers(), &topics, MODEL)?;
    // It stands still for less than its session, so that it keeps its partition and has no new start to look for.
    let patient = [("DRIFTLINE__KAFKA__PROPERTIES__SESSION_TIMEOUT_MS", "120000")];
    let process = sandbox.spawn_with("pipeline", &PIPELINE, &patient)?;
    until_joined(&sandbox, &process, Joined::default().and(10)).await?;
    process.signal("STOP").await?;
    // What it had asked for before is answered, with nothing.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let plain = producer(&broker, &[])?;
    send(&plain, &topics.predictions, &predictions("lost", 8)).await?;
    delete_records(&broker, &topics.predictions, 18).await?;
    send(&plain, &topics.predictions, &predictions("left", 5)).await?;
    send(&plain, &topics.labels, &labels("left", 5)).await?;
    process.signal("CONT").await?;

    let accept = ["collector", "accept-gap", "--topic", &topics.predictions, "--partition", "0"];
    readyz(&process, 503, &["offsets 10 to 18", &format!("driftline {}", accept.join(" "))]).await?;
    sandbox.succeed(&accept).await?;
    readyz(&process, 200, &[]).await?;
    until_joined(&sandbox, &process, Joined::default().and(10).and(5)).await?;
    process.terminate().await?;
    let found = account(&sandbox, &topics.predictions).await?;
    ensure!(found == terms(&[("records", 15), ("gaps", 8), ("accepted", 15)]), "{found:?}");
    Ok(())
}

fn unapplied(found: &[(String, u64)]) -> u64 {
    found.iter().find(|(term, _)| term == "accepted_unapplied").map_or(0, |(_, count)| *count)
}
