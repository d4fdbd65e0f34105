//! An authorizer that denies: each missing right is named with its owner, its object and the command that grants it; nothing
//! is lost, and nothing has to be started again.

use std::time::Duration;

use anyhow::{Result, ensure};
use driftline_integration_tests::kafka::Topics;
use driftline_integration_tests::secure::SecureBroker;

use super::{CATCH_UP, Joined, MODEL, PIPELINE, configure, id, label, producer, publish, readyz, send, until_joined};
use crate::sandbox::{Process, Sandbox};

const WHO: &str = "limited";
const EVENTS: usize = 20;

fn door(broker: &SecureBroker) -> Vec<(&'static str, String)> {
    vec![
        ("security.protocol", "sasl_ssl".to_owned()),
        ("ssl.ca.location", broker.file("ca.pem")),
        ("sasl.mechanisms", "SCRAM-SHA-512".to_owned()),
        ("sasl.username", WHO.to_owned()),
        ("sasl.password", format!("{WHO}-secret")),
        ("topic.metadata.refresh.interval.ms", "1000".to_owned()),
    ]
}

fn sandbox(broker: &SecureBroker, topics: &Topics, kafka: &str) -> Result<Sandbox> {
    let sandbox = Sandbox::new(&broker.sasl_ssl, topics, MODEL)?;
    let door = door(broker);
    let properties: Vec<(&str, &str)> = door.iter().map(|(key, value)| (*key, value.as_str())).collect();
    configure(&sandbox, kafka, &properties)?;
    Ok(sandbox)
}

/// A right as the messages name it.
fn missing(broker: &SecureBroker, lacks: &str, grant: &str, kind: &str, name: &str) -> String {
    format!(
        "User:{WHO} may not {lacks} {kind} {name}; grant it: `kafka-acls.sh --bootstrap-server {} --add --allow-principal \
         'User:{WHO}' --operation {grant} --{kind} '{name}'`",
        broker.sasl_ssl
    )
}

/// `check` fails and names exactly these; `/readyz` of a running pipeline is red and names them too.
async fn denied(sandbox: &Sandbox, process: &Process, rights: &[String], not: &[String]) -> Result<()> {
    let words: Vec<&str> = rights.iter().map(String::as_str).collect();
    readyz(process, 503, &words).await?;
    let check = sandbox.run(&["check"]).await?;
    ensure!(check.code == Some(3), "check ended with {:?}: {}", check.code, check.stdout);
    for right in rights {
        ensure!(check.stdout.contains(right), "check does not say {right}:\n{}", check.stdout);
    }
    for right in not {
        ensure!(!check.stdout.contains(right), "check says {right}, which is granted:\n{}", check.stdout);
    }
    eprintln!("{}", check.stdout.lines().filter(|line| line.contains("may not")).collect::<Vec<_>>().join("\n"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_missing_right_is_named_and_what_is_granted_goes_on() -> Result<()> {
    let Some(broker) = SecureBroker::real("each_missing_right_is_named_and_what_is_granted_goes_on")? else {
        return Ok(());
    };
    let topics = Topics::unique();
    let letters = topics.predictions.replace("predictions", "letters");
    let group = topics.predictions.replace("predictions", "group");
    for topic in [&topics.predictions, &topics.labels, &letters] {
        broker.plain.create_topic(topic, 2).await?;
    }
    publish(&broker.plain, &topics, "first", EVENTS).await?;
    let joined = Joined::default().and(EVENTS);
    let sandbox = sandbox(&broker, &topics, &format!("dead_letter_topic = {letters:?}"))?;
    let right = |lacks: &str, grant: &str, kind: &str, name: &str| missing(&broker, lacks, grant, kind, name);
    let both = ["--topic", topics.predictions.as_str(), "--topic", topics.labels.as_str()];

    // Nothing is granted.
    let hidden = [
        right("DESCRIBE or READ", "READ", "topic", &topics.predictions),
        right("DESCRIBE or READ", "READ", "topic", &topics.labels),
        right("DESCRIBE or WRITE", "WRITE", "topic", &letters),
        right("READ", "READ", "group", &group),
    ];
    let process = sandbox.spawn("pipeline", &PIPELINE)?;
    denied(&sandbox, &process, &hidden, &[]).await?;
    let said = sandbox.run(&CATCH_UP).await?;
    ensure!(said.code == Some(1) && hidden.iter().all(|right| said.stderr.contains(right)), "{}", said.stderr);

    // The topics may be seen, and not read.
    broker.grant(WHO, "DESCRIBE", &both)?;
    let unread = [
        right("READ", "READ", "topic", &topics.predictions),
        right("READ", "READ", "topic", &topics.labels),
        hidden[2].clone(),
        hidden[3].clone(),
    ];
    denied(&sandbox, &process, &unread, &hidden[..2]).await?;

    // They may be read, and the group not joined.
    broker.grant(WHO, "READ", &both)?;
    denied(&sandbox, &process, &hidden[2..], &unread[..2]).await?;

    broker.grant(WHO, "READ", &["--group", &group])?;
    denied(&sandbox, &process, &hidden[2..3], &hidden[3..]).await?;

    broker.grant(WHO, "WRITE", &["--topic", &letters])?;
    let took = readyz(&process, 200, &[]).await?;
    eprintln!("ready {took:?} after the last right was granted");
    until_joined(&sandbox, &process, joined).await?;
    ensure!(sandbox.run(&["check"]).await?.code == Some(0), "check finds something still");
    process.terminate().await?;
    Ok(())
}

/// Rights that are taken away from a pipeline that runs, one after the other, and given back.
#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_withdrawn_and_granted_again_loses_nothing() -> Result<()> {
    let Some(broker) = SecureBroker::real("a_right_that_is_withdrawn_and_granted_again_loses_nothing")? else {
        return Ok(());
    };
    let topics = Topics::unique();
    let letters = topics.predictions.replace("predictions", "letters");
    let group = topics.predictions.replace("predictions", "group");
    for topic in [&topics.predictions, &topics.labels, &letters] {
        broker.plain.create_topic(topic, 2).await?;
    }
    let read_labels = ["--topic", topics.labels.as_str()];
    let see_labels = ["--topic", topics.labels.as_str()];
    let read_group = ["--group", group.as_str()];
    let write = ["--topic", letters.as_str()];
    broker.grant(WHO, "READ", &["--topic", &topics.predictions, "--topic", &topics.labels, "--group", &group])?;
    broker.grant(WHO, "DESCRIBE", &see_labels)?;
    broker.grant(WHO, "WRITE", &write)?;
    let sandbox = sandbox(&broker, &topics, &format!("dead_letter_topic = {letters:?}"))?;
    let process = sandbox.spawn("pipeline", &PIPELINE)?;
    readyz(&process, 200, &[]).await?;
    publish(&broker.plain, &topics, "first", EVENTS).await?;
    let joined = Joined::default().and(EVENTS);
    until_joined(&sandbox, &process, joined).await?;

    // READ of the labels, while they come.
    broker.withdraw(WHO, "READ", &read_labels)?;
    publish(&broker.plain, &topics, "second", EVENTS).await?;
    let right = [missing(&broker, "READ", "READ", "topic", &topics.labels)];
    denied(&sandbox, &process, &right, &[]).await?;
    // It stays red for as long as the right is missing, though the client has complained only once.
    tokio::time::sleep(Duration::from_secs(4)).await;
    readyz(&process, 503, &[&right[0]]).await?;
    broker.grant(WHO, "READ", &read_labels)?;
    readyz(&process, 200, &[]).await?;
    let joined = joined.and(EVENTS);
    until_joined(&sandbox, &process, joined).await?;

    // READ of the group.
    broker.withdraw(WHO, "READ", &read_group)?;
    let right = [missing(&broker, "READ", "READ", "group", &group)];
    denied(&sandbox, &process, &right, &[]).await?;
    publish(&broker.plain, &topics, "third", EVENTS).await?;
    broker.grant(WHO, "READ", &read_group)?;
    readyz(&process, 200, &[]).await?;
    let joined = joined.and(EVENTS);
    until_joined(&sandbox, &process, joined).await?;

    // WRITE of the dead letters: only they are held up.
    broker.withdraw(WHO, "WRITE", &write)?;
    let plain = producer(&broker.plain, &[])?;
    send(&plain, &topics.predictions, &[(id("broken", 0), "{".to_owned())]).await?;
    let right = [missing(&broker, "WRITE", "WRITE", "topic", &letters)];
    readyz(&process, 503, &["dead letters", &right[0]]).await?;
    publish(&broker.plain, &topics, "fourth", EVENTS).await?;
    let joined = joined.and(EVENTS);
    until_joined(&sandbox, &process, joined).await?;
    // The letter waits in the meantime, and goes out when it may: nobody has to send another one.
    broker.grant(WHO, "WRITE", &write)?;
    readyz(&process, 200, &[]).await?;
    let ends = (0..2).map(|partition| broker.plain.watermarks(&letters, partition)).collect::<Result<Vec<_>>>()?;
    ensure!(ends.iter().map(|(_, high)| high).sum::<i64>() >= 1, "the letter that waited is published: {ends:?}");
    #[derive(serde::Deserialize)]
    struct Count {
        count: u64,
    }
    let kept = sandbox.sql::<Count>("SELECT count(*) AS count FROM dead_letters WHERE reason = 'not_json'").await?;
    ensure!(kept.iter().map(|row| row.count).sum::<u64>() == 1, "the letter is kept in raw/ too");
    joined.check(&sandbox).await?;
    process.terminate().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_may_not_be_created_or_written_are_named() -> Result<()> {
    let Some(broker) = SecureBroker::real("topics_that_may_not_be_created_or_written_are_named")? else {
        return Ok(());
    };
    let topics = Topics::unique();
    let group = topics.predictions.replace("predictions", "group");
    let sandbox = sandbox(&broker, &topics, "create_topics = true\ncreate_partitions = 2")?;
    let both = ["--topic", topics.predictions.as_str(), "--topic", topics.labels.as_str()];
    broker.grant(WHO, "READ", &[&both[..], &["--group", &group]].concat())?;
    let process = sandbox.spawn("pipeline", &PIPELINE)?;
    // One after the other: the first that cannot be created is reason enough.
    readyz(&process, 503, &[&missing(&broker, "CREATE", "CREATE", "topic", &topics.predictions)]).await?;
    let check = sandbox.run(&["check"]).await?;
    for topic in [&topics.predictions, &topics.labels] {
        let right = missing(&broker, "CREATE", "CREATE", "topic", topic);
        ensure!(check.code == Some(3) && check.stdout.contains(&right), "{}", check.stdout);
    }
    broker.grant(WHO, "CREATE", &both)?;
    readyz(&process, 200, &[]).await?;

    // `produce` is a client like the others.
    let lines: String = (0..EVENTS).map(|n| label("mine", n) + "\n").collect();
    std::fs::write(sandbox.path("l.jsonl"), lines)?;
    let produce = ["produce", "l.jsonl", "--topic", topics.labels.as_str()];
    let said = sandbox.run(&produce).await?;
    let right = missing(&broker, "WRITE", "WRITE", "topic", &topics.labels);
    ensure!(said.code == Some(1) && said.stderr.contains(&right), "{:?}: {}", said.code, said.stderr);
    broker.grant(WHO, "WRITE", &["--topic", &topics.labels])?;
    sandbox.succeed(&produce).await?;
    let plain = producer(&broker.plain, &[])?;
    send(&plain, &topics.predictions, &super::predictions("mine", EVENTS)).await?;
    until_joined(&sandbox, &process, Joined::default().and(EVENTS)).await?;
    process.terminate().await?;
    Ok(())
}
